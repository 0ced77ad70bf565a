//! The first list and later ones.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use serde_json::json;
use sockline::model::object::Kind;
use sockline_testbed::api::{Api, Cut, Fault, Refusal, Resource, Scripted};

use super::{objects, watched::Watched};

#[tokio::test(start_paused = true)]
async fn requests_have_selectors_and_a_user_agent() {
    let api = Api::default();
    let mut watched = Watched::start(&api);
    watched.until_listed().await;
    let proxy = "!service.kubernetes.io/service-proxy-name";
    let slices = format!("{proxy},!service.kubernetes.io/headless");
    for (resource, labels, fields) in [
        (Resource::Services, proxy, "spec.clusterIP!=None"),
        (Resource::EndpointSlices, slices.as_str(), ""),
        (Resource::Nodes, "", "metadata.name=node-a"),
        (Resource::Namespaces, "", ""),
        (Resource::Pods, "", "spec.nodeName=node-a"),
    ] {
        let asked = &api.asked(resource)[0];
        assert_eq!(asked.get("labelSelector"), labels, "{asked:?}");
        assert_eq!(asked.get("fieldSelector"), fields, "{asked:?}");
        assert_eq!(asked.get("sendInitialEvents"), "true", "{asked:?}");
        assert_eq!(asked.get("resourceVersionMatch"), "NotOlderThan", "{asked:?}");
        assert_eq!(asked.get("resourceVersion"), "", "{asked:?}");
        assert_eq!(asked.get("allowWatchBookmarks"), "true", "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_streaming_lists_the_first_list_is_what_the_server_has_in_memory() {
    let names: Vec<String> = (0..1_200).map(|number| format!("s{number:04}")).collect();
    let api = objects::cluster(&names.iter().map(String::as_str).collect::<Vec<_>>());
    api.fault(Resource::Services, Fault::NoStreamingLists);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [names]);
    let asked = api.asked(Resource::Services);
    assert!(!asked[1].is_watch(), "{asked:?}");
    // As kube-proxy asks (the first list of client-go's reflector).
    assert_eq!(asked[1].get("resourceVersion"), "0", "{asked:?}");
    assert_eq!(asked[1].get("limit"), "", "{asked:?}");
    assert!(asked[2].is_watch() && !asked[2].is_first_of_list(), "{asked:?}");
    watched.never_failed();
    // The source remembers that. A list that replaces another must be the most recent, and has pages.
    api.compact();
    api.cut(Resource::Services, Cut::Expired);
    let before = api.asked(Resource::Services).len();
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    let asked = api.asked(Resource::Services);
    let pages: Vec<_> = asked[before..].iter().filter(|asked| !asked.is_watch()).collect();
    assert_eq!(pages.len(), 3, "{pages:?}");
    for page in &pages {
        assert_eq!(page.get("resourceVersion"), "", "{page:?}");
        assert_eq!(page.get("limit"), "500", "{page:?}");
        assert_eq!(page.get("labelSelector"), asked[0].get("labelSelector"), "{page:?}");
        assert_eq!(page.get("fieldSelector"), "spec.clusterIP!=None", "{page:?}");
    }
}

/// A source that has asked for the first of two pages, and the names of the services on both.
async fn between_pages() -> (Api, Watched, Vec<String>) {
    let names: Vec<String> = (0..600).map(|number| format!("s{number:04}")).collect();
    let api = objects::cluster(&names.iter().map(String::as_str).collect::<Vec<_>>());
    api.fault(Resource::Services, Fault::NoStreamingLists);
    api.limit_pages(500);
    let watched = Watched::start(&api);
    while api.asked(Resource::Services).iter().filter(|asked| !asked.is_watch()).count() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (api, watched, names)
}

#[tokio::test(start_paused = true)]
async fn objects_that_come_while_pages_are_read_are_not_lost() {
    let (api, mut watched, names) = between_pages().await;
    api.apply(&objects::service("a-new-one"));
    api.delete(&objects::service("s0599"));
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [names]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_expired_starts_the_list_again() {
    let (api, mut watched, names) = between_pages().await;
    api.apply(&objects::pod("p", "node-a"));
    api.compact();
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [names]);
    assert_eq!(api.lists(Resource::Services), 3, "the refused one, and two in pages");
}

#[tokio::test(start_paused = true)]
async fn a_bad_continue_token_starts_the_list_again() {
    let page = json!({
        "kind": "ServiceList", "apiVersion": "v1", "items": [objects::service("cart")],
        "metadata": {"resourceVersion": "7", "continue": "abcd."},
    });
    let api = objects::cluster(&["cart", "web"]);
    api.fault(Resource::Services, Fault::NoStreamingLists);
    api.fault_once(Resource::Services, Fault::NoStreamingLists);
    api.script(Resource::Services, Scripted::Whole(200, page.to_string()));
    let mut watched = Watched::start(&api);
    watched.until_source_error("illegal base64 data").await;
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [["cart", "web"]]);
    assert_eq!(api.asked(Resource::Services)[2].get("continue"), "abcd.");
    assert_eq!(api.asked(Resource::Services)[3].get("continue"), "");
}

#[tokio::test(start_paused = true)]
async fn a_streaming_list_that_does_not_end_is_replaced_by_pages() {
    let api = objects::cluster(&["cart", "web"]);
    api.fault(Resource::Services, Fault::EndlessList);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [["cart", "web"]]);
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_streaming_list_is_tried_again_after_one_that_did_not_end() {
    let api = objects::cluster(&["cart"]);
    api.fault_once(Resource::Services, Fault::EndlessList);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.compact();
    api.cut(Resource::Services, Cut::Expired);
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    let asked = api.asked(Resource::Services);
    assert_eq!(asked.last().unwrap().get("sendInitialEvents"), "true", "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_list_is_not_sent() {
    let api = objects::cluster(&["cart", "web"]);
    api.fault_once(Resource::Services, Fault::BrokenList);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [["cart", "web"]]);
}

#[tokio::test(start_paused = true)]
async fn a_change_within_a_streaming_list_is_part_of_it() {
    let api = objects::cluster(&["cart", "web"]);
    api.apply(&objects::service("gone"));
    let behind = api.version();
    api.delete(&objects::service("gone"));
    api.apply(&objects::service("web"));
    api.apply(&objects::service("new"));
    api.fault_once(Resource::Services, Fault::CatchingUp(behind));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [["cart", "new", "web"]]);
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_arrives_slowly_is_read_in_full() {
    let api = objects::cluster(&["cart", "web", "mail"]);
    for resource in Resource::ALL {
        api.fault(resource, Fault::Trickle);
    }
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(api.lists(Resource::Services), 1);
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_server_without_the_field_selector_is_asked_without_it() {
    let api = objects::cluster(&["cart"]);
    let mut headless = objects::service("headless");
    headless["spec"]["clusterIP"] = json!("None");
    api.apply(&headless);
    api.fault(Resource::Services, Fault::NoFieldSelector);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.services(), ["Service shop/cart"]);
    let asked = api.asked(Resource::Services);
    assert_eq!(asked[1].get("fieldSelector"), "", "{asked:?}");
    assert_eq!(asked[1].get("labelSelector"), asked[0].get("labelSelector"), "{asked:?}");
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_watch_catches_up_after_a_list_of_an_older_state() {
    let api = objects::cluster(&["cart"]);
    let old = api.version();
    api.apply(&objects::service("web"));
    api.delete(&objects::service("cart"));
    api.fault_once(Resource::Services, Fault::Stale(old));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [["cart"]]);
    assert_eq!(watched.services(), ["Service shop/web"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_synced_before_every_kind_was_listed() {
    for late in Resource::ALL {
        let api = objects::cluster(&["cart"]);
        api.fault(late, Fault::Refuse(Refusal::unavailable()));
        let mut watched = Watched::start(&api);
        watched.pass(Duration::from_secs(60)).await;
        assert!(!watched.index.synced(), "without {late:?}");
        assert_eq!(watched.listed.len(), Resource::ALL.len() - 1);
        api.lift(late);
        watched.catch_up(&api).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_counts_as_one() {
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.stats.kind(Kind::Service).relisted.load(Relaxed), 1);
    assert_eq!(watched.stats.kind(Kind::Service).applied.load(Relaxed), 0);
}
