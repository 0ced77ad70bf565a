//! Objects that cannot be decoded cost only themselves.

use serde_json::{Value, json};
use sockline::model::object::Kind;
use sockline_testbed::api::{Cut, Fault, Resource};

use super::{objects, watched::Watched};

fn broken(name: &str) -> Value {
    let mut object = objects::service(name);
    object["spec"] = json!({"ports": "none"});
    object
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_in_a_streaming_list_is_reported_and_the_others_are_used() {
    let api = objects::cluster(&["cart", "web"]);
    api.apply(&broken("bad"));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    let input_errors = watched.index.input_errors();
    assert_eq!(input_errors.len(), 1, "{input_errors:#?}");
    assert_eq!(input_errors[0].object.as_str(), "Service shop/bad");
    assert_eq!(input_errors[0].field, "spec.ports");
    assert_eq!(watched.index.plan().frontends.len(), 2);
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_in_a_page_is_reported_and_the_others_are_used() {
    let api = objects::cluster(&["cart", "web"]);
    api.fault(Resource::Services, Fault::NoStreamingLists);
    api.apply(&broken("bad"));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.index.input_errors()[0].object.as_str(), "Service shop/bad");
    assert_eq!(watched.replaced(Kind::Service).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_becomes_bad_is_reported_until_it_is_fixed() {
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.apply(&broken("bad"));
    watched.catch_up(&api).await;
    assert_eq!(watched.index.input_errors().len(), 1);
    api.apply(&objects::service("bad"));
    watched.catch_up(&api).await;
    assert_eq!(watched.index.input_errors(), []);
    assert_eq!(watched.index.plan().frontends.len(), 2);
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_bad_object_is_not_reported_any_more() {
    let api = objects::cluster(&["cart"]);
    api.apply(&broken("bad"));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.delete(&broken("bad"));
    watched.catch_up(&api).await;
    assert_eq!(watched.index.input_errors(), []);
}

#[tokio::test(start_paused = true)]
async fn a_bad_endpoint_costs_only_itself() {
    let api = objects::cluster(&["cart"]);
    let mut slice = objects::slice("cart", &["10.244.1.1", "10.244.1.2"]);
    slice["endpoints"][0]["addresses"] = json!("10.244.1.1");
    api.apply(&slice);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.index.plan().frontends[0].backends.len(), 1);
    assert_eq!(watched.index.input_errors()[0].field, "endpoints[0].addresses");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_nested_too_deeply_costs_only_itself() {
    let api = objects::cluster(&["cart"]);
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let mut object = objects::service("deep");
    object["metadata"]["labels"] = deep;
    let text =
        object.to_string().replace("[1]", &format!("{}1{}", "[".repeat(100), "]".repeat(100)));
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.say(Resource::Services, &format!("{{\"type\":\"ADDED\",\"object\":{text}}}\n"));
    watched
        .until("input error of the object", |watched| {
            watched.objects.get("Service shop/deep").is_some_and(|o| o.object.is_none())
        })
        .await;
    api.apply(&objects::service("web"));
    watched.until("the next event", |w| w.objects.contains_key("Service shop/web")).await;
    assert_eq!(api.lists(Resource::Services), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_parsed_leads_to_a_new_list() {
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.hold(Resource::Services);
    api.apply(&objects::service("web"));
    api.cut(Resource::Services, Cut::Corrupt);
    api.release(Resource::Services);
    watched.until_source_error("not a list or watch of the Kubernetes API").await;
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    watched.catch_up(&api).await;
}

#[tokio::test(start_paused = true)]
async fn pages_of_large_objects_are_requested_in_smaller_parts() {
    let api = objects::cluster(&[]);
    api.fault(Resource::Services, Fault::NoStreamingLists);
    for number in 0..40 {
        let name = format!("large-{number}");
        let mut service = objects::service(&name);
        service["spec"]["clusterIP"] = json!(format!("10.96.1.{number}"));
        service["spec"]["clusterIPs"] = json!([format!("10.96.1.{number}")]);
        service["metadata"]["annotations"] = json!({"note": "x".repeat(1 << 20)});
        api.apply(&service);
        api.apply(&objects::slice(&name, &["10.244.1.1"]));
    }
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    assert_eq!(watched.index.input_errors(), []);
    let listed: Vec<usize> = watched.replaced(Kind::Service).iter().map(Vec::len).collect();
    assert_eq!(listed, [40]);
    let plan = watched.index.plan();
    let served = plan.frontends.iter().filter(|frontend| frontend.backends.len() == 1).count();
    assert_eq!(served, 40, "{:#?}", plan.frontends);
}
