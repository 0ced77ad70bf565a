//! The load of a source on the server: how often it sends requests, and when.

use std::time::Duration;

use sockline_testbed::api::{Api, Cut, Fault, Refusal, Resource};

use super::{objects, watched::Watched};

async fn watching() -> (Api, Watched) {
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    (api, watched)
}

/// The waits between the requests for services, from the second on.
fn waits(api: &Api) -> Vec<Duration> {
    let times: Vec<_> = api.asked(Resource::Services).iter().map(|asked| asked.at).collect();
    times.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_quiet_hour_costs_a_watch_every_five_to_ten_minutes_and_no_list() {
    let (api, mut watched) = watching().await;
    watched.pass(Duration::from_secs(3_600)).await;
    for resource in Resource::ALL {
        let asked = api.asked(resource);
        assert!((6..=13).contains(&asked.len()), "{} of {resource:?}", asked.len());
        assert!(asked[1..].iter().all(|asked| asked.is_watch() && !asked.is_first_of_list()));
    }
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn the_backoff_grows_while_the_server_is_away() {
    let (api, mut watched) = watching().await;
    api.fault(Resource::Services, Fault::Close);
    api.cut(Resource::Services, Cut::Between);
    watched.pass(Duration::from_secs(600)).await;
    let waits = waits(&api);
    let seconds: Vec<f64> = waits.iter().map(Duration::as_secs_f64).collect();
    for (wait, longest) in seconds.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0]) {
        assert!(*wait >= longest / 2.0 && *wait <= longest + 0.1, "{seconds:?}");
    }
    assert!(seconds[6..].iter().all(|wait| *wait <= 30.1), "{seconds:?}");
    assert!(waits.len() < 50, "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_respected() {
    let (api, mut watched) = watching().await;
    api.fault(Resource::Services, Fault::Refuse(Refusal::too_many_requests(60)));
    api.cut(Resource::Services, Cut::Between);
    watched.pass(Duration::from_secs(600)).await;
    let waits = waits(&api);
    assert!(waits.len() > 5, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait >= Duration::from_secs(60)), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn many_nodes_that_lose_the_server_at_once_reconnect_at_different_times() {
    let api = objects::cluster(&["cart"]);
    let mut nodes: Vec<Watched> = (0..100).map(|_| Watched::start(&api)).collect();
    for node in &mut nodes {
        node.catch_up(&api).await;
    }
    let before = api.asked(Resource::Services).len();
    api.cut(Resource::Services, Cut::Between);
    for node in &mut nodes {
        node.pass(Duration::from_millis(50)).await;
    }
    let mut times: Vec<_> =
        api.asked(Resource::Services)[before..].iter().map(|asked| asked.at.as_millis()).collect();
    assert_eq!(times.len(), 100, "each once, and none lists: {times:?}");
    assert_eq!(api.lists(Resource::Services), 100);
    times.sort_unstable();
    let crowd = times.chunk_by(|a, b| a / 50 == b / 50).map(<[_]>::len).max();
    assert!(crowd < Some(25), "{crowd:?} of 100 within 50 ms: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn the_backoff_grows_while_watches_are_cut() {
    let (api, mut watched) = watching().await;
    let line = sockline_testbed::api::Scripted::Lines(String::new(), Some(Cut::Between));
    api.fault(Resource::Services, Fault::Scripted(line));
    api.cut(Resource::Services, Cut::Between);
    watched.until_source_error("the connection broke").await;
    watched.pass(Duration::from_secs(300)).await;
    assert!(api.asked(Resource::Services).len() < 30, "{:?}", waits(&api));
    api.lift(Resource::Services);
    watched.catch_up(&api).await;
}

/// A real server that restarts answers with an empty watch cache: every version is gone.
#[tokio::test(start_paused = true)]
async fn when_one_watch_reconnects_the_others_follow_within_seconds() {
    let (api, mut watched) = watching().await;
    for resource in Resource::ALL {
        api.fault(resource, Fault::Close);
        api.cut(resource, Cut::Between);
    }
    watched.pass(Duration::from_secs(600)).await;
    let asked: Vec<usize> = Resource::ALL.map(|resource| api.asked(resource).len()).into();
    for resource in Resource::ALL {
        api.lift(resource);
        api.fault_once(resource, Fault::Gone);
    }
    watched.pass(Duration::from_secs(60)).await;
    let since_then = |(resource, asked): (Resource, usize)| api.asked(resource)[asked..].to_vec();
    let requests: Vec<_> = Resource::ALL.into_iter().zip(asked).map(since_then).collect();
    let first = requests.iter().flatten().map(|asked| asked.at).min().unwrap();
    for (resource, requests) in Resource::ALL.into_iter().zip(&requests) {
        let lists: Vec<_> = requests.iter().filter(|asked| asked.is_first_of_list()).collect();
        assert_eq!(lists.len(), 1, "{resource:?}: {requests:?}");
        let after = lists[0].at - first;
        assert!(after < Duration::from_secs(4), "{resource:?} is listed {after:?} later");
    }
    watched.catch_up(&api).await;
    watched.until_quiet().await;
}
