//! A watch that ends, and changes before the next one.

use std::time::Duration;

use serde_json::json;
use sockline::{model::object::Kind, source::Event};
use sockline_testbed::api::{Api, Cut, Fault, Refusal, Resource};

use super::{objects, watched::Watched};

/// A cluster with these services and a source that knows them.
async fn watching(services: &[&str]) -> (Api, Watched) {
    let api = objects::cluster(services);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    (api, watched)
}

/// No list but the first.
fn assert_listed_once(api: &Api) {
    for resource in Resource::ALL {
        assert_eq!(api.lists(resource), 1, "{:#?}", api.asked(resource));
    }
}

#[tokio::test(start_paused = true)]
async fn changes_come_as_they_happen() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    api.apply(&objects::service("new"));
    api.apply(&objects::slice("cart", &["10.244.1.7", "10.244.1.8"]));
    api.delete(&objects::service("web"));
    watched.catch_up(&api).await;
    assert_eq!(watched.services(), ["Service shop/cart", "Service shop/new"]);
    assert_listed_once(&api);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_in_any_way_resumes_after_the_last_complete_event() {
    for cut in [Cut::End, Cut::Between, Cut::Within] {
        let (api, mut watched) = watching(&["cart", "web"]).await;
        api.apply(&objects::service("seen"));
        watched.catch_up(&api).await;
        let last = api.version().to_string();
        api.hold(Resource::Services);
        api.apply(&objects::service("missed"));
        api.delete(&objects::service("web"));
        api.cut(Resource::Services, cut);
        api.release(Resource::Services);
        watched.catch_up(&api).await;
        let asked = api.asked(Resource::Services);
        assert_eq!(asked[1].get("resourceVersion"), last, "{cut:?}");
        assert_listed_once(&api);
        watched.never_failed();
    }
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_advances_the_resource_version() {
    let (api, mut watched) = watching(&["cart"]).await;
    // An object of another kind: only a bookmark has its version.
    api.apply(&objects::pod("elsewhere", "node-b"));
    api.bookmark(Resource::Services);
    watched.pass(Duration::from_millis(10)).await;
    api.compact();
    api.cut(Resource::Services, Cut::Between);
    api.apply(&objects::service("web"));
    watched.catch_up(&api).await;
    assert_eq!(api.lists(Resource::Services), 1, "the bookmarked version had not expired");
}

#[tokio::test(start_paused = true)]
async fn many_bookmarks_change_nothing() {
    let api = objects::cluster(&["cart"]);
    for resource in Resource::ALL {
        api.fault(resource, Fault::BookmarkStorm);
    }
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    for name in ["a", "b", "c"] {
        api.apply(&objects::service(name));
    }
    watched.catch_up(&api).await;
    assert_listed_once(&api);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_in_mid_watch_leads_to_a_new_list() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    api.hold(Resource::Services);
    api.delete(&objects::service("web"));
    api.compact();
    api.cut(Resource::Services, Cut::Expired);
    api.release(Resource::Services);
    watched.catch_up(&api).await;
    // Two lists and nothing else: no empty state in between, and no deletion.
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"], vec!["cart"]]);
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn an_expiry_in_an_event_of_a_resumed_watch_leads_to_a_new_list() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    api.hold(Resource::Services);
    api.delete(&objects::service("web"));
    api.compact();
    api.cut(Resource::Services, Cut::Between);
    api.release(Resource::Services);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"], vec!["cart"]]);
    assert_eq!(api.lists(Resource::Services), 2);
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn an_expiry_in_the_http_status_leads_to_a_new_list() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    api.fault(Resource::Services, Fault::Gone);
    api.cut(Resource::Services, Cut::Between);
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    watched.catch_up(&api).await;
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_list_with_fewer_objects_removes_the_others() {
    let (api, mut watched) = watching(&["a", "b", "c", "d"]).await;
    for resource in [Resource::Services, Resource::EndpointSlices] {
        api.fault(resource, Fault::Refuse(Refusal::unavailable()));
        api.cut(resource, Cut::Between);
    }
    for name in ["a", "b", "c"] {
        api.delete(&objects::service(name));
        api.delete(&objects::slice(name, &[]));
    }
    api.compact();
    for resource in Resource::ALL {
        api.lift(resource);
    }
    watched.catch_up(&api).await;
    assert_eq!(watched.services(), ["Service shop/d"]);
    assert_eq!(watched.index.counts().endpoint_slices, 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_deleted_during_an_outage_is_removed_after_it() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    api.fault(Resource::Services, Fault::Close);
    api.cut(Resource::Services, Cut::Between);
    api.delete(&objects::service("web"));
    watched.until_source_error("watch of services").await;
    assert_eq!(watched.services().len(), 2, "the last state is kept");
    api.lift(Resource::Services);
    watched.catch_up(&api).await;
    assert_eq!(watched.services(), ["Service shop/cart"]);
    assert_listed_once(&api);
}

#[tokio::test(start_paused = true)]
async fn an_object_deleted_and_recreated_during_an_outage_is_the_new_one() {
    let (api, mut watched) = watching(&["cart"]).await;
    api.hold(Resource::Services);
    api.delete(&objects::service("cart"));
    let mut again = objects::service("cart");
    again["spec"]["ports"][0]["port"] = json!(8080);
    api.apply(&again);
    api.cut(Resource::Services, Cut::Between);
    api.release(Resource::Services);
    watched.catch_up(&api).await;
    assert_eq!(watched.index.plan().frontends[0].port, 8080);
}

#[tokio::test(start_paused = true)]
async fn repeated_events_change_nothing() {
    let (api, mut watched) = watching(&["cart"]).await;
    api.apply(&objects::service("web"));
    api.delete(&objects::service("web"));
    api.apply(&objects::service("mail"));
    watched.catch_up(&api).await;
    for _ in 0..3 {
        api.repeat(Resource::Services, 3);
        watched.pass(Duration::from_secs(1)).await;
    }
    watched.catch_up(&api).await;
    assert!(watched.log.iter().filter(|event| matches!(event, Event::Delete(_))).count() > 2);
    assert_listed_once(&api);
}

#[tokio::test(start_paused = true)]
async fn kinds_in_any_order_make_the_same_plan() {
    for held in Resource::ALL {
        let (api, mut watched) = watching(&["cart"]).await;
        api.hold(held);
        api.apply(&objects::service("web"));
        api.apply(&objects::slice("web", &["10.244.1.2"]));
        api.apply(&objects::pod("p", "node-a"));
        api.delete(&objects::service("cart"));
        api.delete(&objects::slice("cart", &[]));
        watched.pass(Duration::from_secs(30)).await;
        api.release(held);
        watched.catch_up(&api).await;
        assert_listed_once(&api);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_leaves_the_selection_is_deleted_and_can_return() {
    let (api, mut watched) = watching(&["cart", "web"]).await;
    let mut foreign = objects::service("web");
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    api.apply(&foreign);
    watched.catch_up(&api).await;
    assert_eq!(watched.services(), ["Service shop/cart"]);
    api.apply(&objects::service("web"));
    watched.catch_up(&api).await;
    assert_eq!(watched.services().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_cannot_read_leads_to_a_new_list() {
    let (api, mut watched) = watching(&["cart"]).await;
    let words = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: invalid syntax";
    api.fault_once(Resource::Services, Fault::Refuse(Refusal::new(400, "BadRequest", words)));
    api.cut(Resource::Services, Cut::Between);
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    watched.until_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn errors_in_every_resumed_watch_lead_to_a_new_list() {
    let (api, mut watched) = watching(&["cart"]).await;
    let words = Refusal::internal_error().event();
    for _ in 0..5 {
        let lines = sockline_testbed::api::Scripted::Lines(words.clone(), Some(Cut::End));
        api.script(Resource::Services, lines);
    }
    api.cut(Resource::Services, Cut::Between);
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    watched.until_quiet().await;
    watched.catch_up(&api).await;
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_watches() {
    let (_api, mut watched) = watching(&["cart"]).await;
    drop(watched.stop.take());
    watched.until_end().await;
}
