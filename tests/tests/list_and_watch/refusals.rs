//! A server that rejects requests, or does not answer.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use sockline::model::object::Kind;
use sockline_testbed::api::{Api, Cut, Fault, Refusal, Resource};

use super::{objects, watched::Watched};

async fn watching() -> (Api, Watched) {
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    (api, watched)
}

/// The watch of Services is cut, and every request after that fails this way.
async fn cut_off(fault: Fault) -> (Api, Watched) {
    let (api, watched) = watching().await;
    api.fault(Resource::Services, fault);
    api.cut(Resource::Services, Cut::Between);
    (api, watched)
}

/// Changes during the outage arrive when the server is back, without a list.
async fn goes_on(api: &Api, mut watched: Watched) {
    assert_eq!(watched.services(), ["Service shop/cart"], "the last state is kept");
    api.delete(&objects::service("cart"));
    api.apply(&objects::service("web"));
    api.lift(Resource::Services);
    watched.catch_up(api).await;
    assert_eq!(api.lists(Resource::Services), 1, "{:#?}", api.asked(Resource::Services));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_missing_right_and_ends_when_it_is_granted() {
    let words = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:sockline:\
                 agent\" cannot watch resource \"endpointslices\"";
    let api = objects::cluster(&["cart"]);
    let refusal = Fault::Refuse(Refusal::new(403, "Forbidden", words));
    api.fault_once(Resource::EndpointSlices, refusal);
    let mut watched = Watched::start(&api);
    watched.until_source_error("verbs list and watch on endpointslices.discovery.k8s.io").await;
    assert!(watched.error_text().contains(words), "{}", watched.error_text());
    watched.catch_up(&api).await;
    watched.until_quiet().await;
    assert_eq!(watched.stats.kind(Kind::EndpointSlice).errors.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_reported_as_such() {
    let refusal = Refusal::new(401, "Unauthorized", "Unauthorized");
    let (api, mut watched) = cut_off(Fault::Refuse(refusal)).await;
    watched.until_source_error("does not accept the agent's credentials").await;
    goes_on(&api, watched).await;
}

#[tokio::test(start_paused = true)]
async fn an_internal_error_keeps_what_is_known() {
    let (api, mut watched) = cut_off(Fault::Refuse(Refusal::internal_error())).await;
    watched.until_source_error("etcdserver: request timed out (500)").await;
    watched.pass(Duration::from_secs(300)).await;
    goes_on(&api, watched).await;
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_server_keeps_what_is_known_and_a_resumed_watch_without_events_ends_the_error()
 {
    let (api, mut watched) = cut_off(Fault::Refuse(Refusal::unavailable())).await;
    watched.until_source_error("shutting down (503)").await;
    api.lift(Resource::Services);
    // Although nothing has changed since: the resumed watch proves it.
    watched.until_quiet().await;
    assert_eq!(watched.services(), ["Service shop/cart"]);
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_reported_and_retried_later() {
    let (api, mut watched) = cut_off(Fault::Refuse(Refusal::too_many_requests(7))).await;
    watched.until_source_error("too many requests").await;
    goes_on(&api, watched).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_closed_without_an_answer_keeps_what_is_known() {
    let (api, mut watched) = cut_off(Fault::Close).await;
    watched.until_source_error("watch of services").await;
    goes_on(&api, watched).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_requests_and_does_not_answer_is_detected() {
    let (api, mut watched) = cut_off(Fault::Hang).await;
    watched.until_source_error("sent nothing for 65 seconds").await;
    assert!(!watched.stats.kind(Kind::Service).is_connected());
    goes_on(&api, watched).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_at_the_start_is_reported() {
    let api = objects::cluster(&["cart"]);
    for resource in Resource::ALL {
        api.fault(resource, Fault::Hang);
    }
    let mut watched = Watched::start(&api);
    watched.until("errors of all", |watched| watched.errors.len() == Kind::ALL.len()).await;
    assert!(watched.listed.is_empty());
    for resource in Resource::ALL {
        api.lift(resource);
    }
    watched.catch_up(&api).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_detected_and_resumed() {
    let (api, mut watched) = watching().await;
    // Bookmarks have been seen, so silence means something.
    watched.pass(Duration::from_secs(70)).await;
    api.hold(Resource::Services);
    api.apply(&objects::service("web"));
    watched.until_source_error("sent nothing for 100 seconds").await;
    // The next watch is accepted and as silent, which is no proof that it works.
    watched.pass(Duration::from_secs(50)).await;
    assert!(!watched.errors.is_empty());
    assert!(!watched.stats.kind(Kind::Service).is_connected());
    api.release(Resource::Services);
    watched.catch_up(&api).await;
    watched.until_quiet().await;
    assert!(watched.stats.kind(Kind::Service).is_connected());
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_peer_is_gone_is_detected() {
    let (api, mut watched) = watching().await;
    api.cut(Resource::Services, Cut::Silence);
    api.apply(&objects::service("web"));
    watched.catch_up(&api).await;
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn a_resource_version_that_a_restored_server_does_not_have_is_given_up() {
    let (api, mut watched) = watching().await;
    watched.pass(Duration::from_secs(70)).await;
    // Such a server accepts the watch and sends nothing for a long time.
    api.hold(Resource::Services);
    watched.pass(Duration::from_secs(500)).await;
    api.release(Resource::Services);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_a_server_without_bookmarks_is_no_error() {
    let api = objects::cluster(&["cart"]);
    // Not even the one that ends a list.
    for resource in Resource::ALL {
        api.fault_once(resource, Fault::NoStreamingLists);
        api.fault(resource, Fault::NoBookmarks);
    }
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    watched.pass(Duration::from_secs(3_000)).await;
    watched.never_failed();
    assert_eq!(watched.replaced(Kind::Service).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_the_watches_is_reported() {
    let (api, mut watched) = watching().await;
    let watches = watched.stats.watches();
    assert!(watches.iter().all(|watch| watch.connected && watch.last_event_time.is_some()));
    api.fault(Resource::Nodes, Fault::Refuse(Refusal::unavailable()));
    api.cut(Resource::Nodes, Cut::Between);
    watched.until_source_error("watch of nodes").await;
    let watches = watched.stats.watches();
    let cut_off: Vec<_> = watches.iter().filter(|watch| !watch.connected).collect();
    assert_eq!(cut_off.len(), 1, "{watches:?}");
    assert_eq!(cut_off[0].kind, "Node");
}
