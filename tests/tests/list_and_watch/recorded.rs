//! Wire traffic of kube-apiserver 1.36 (`tests/fixtures/wire`), played to the source.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use sockline::model::object::Kind;
use sockline_testbed::api::{Api, Cut, Fault, Resource, Scripted};

use super::watched::Watched;

fn recorded(name: &str) -> String {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wire");
    std::fs::read_to_string(wire.join(name)).unwrap()
}

/// The names and addresses after a recorded watch, by a simple reading of it. (It was recorded without
/// selectors.)
fn outcome(lines: &str) -> BTreeMap<String, Vec<String>> {
    let mut left = BTreeMap::new();
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap() {
            "ADDED" | "MODIFIED" => {
                let labels = object["metadata"]["labels"].to_string();
                if ["service-proxy-name", "kubernetes.io/headless"]
                    .iter()
                    .any(|l| labels.contains(l))
                    || object["addressType"] == "FQDN"
                {
                    continue;
                }
                let endpoints = object["endpoints"].as_array().into_iter().flatten();
                let address =
                    |endpoint: &Value| endpoint["addresses"][0].as_str().unwrap().to_owned();
                let mut addresses: Vec<_> = endpoints.map(address).collect();
                addresses.sort();
                left.insert(name, addresses);
            }
            "DELETED" => {
                left.remove(&name);
            }
            _ => {}
        }
    }
    left
}

fn slices(watched: &Watched) -> BTreeMap<String, Vec<String>> {
    let known = watched.objects.values().filter_map(|sourced| match &sourced.object {
        Some(sockline::model::object::Object::EndpointSlice(slice)) => Some(slice),
        _ => None,
    });
    known
        .map(|slice| {
            let mut addresses: Vec<_> =
                slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            addresses.sort();
            (slice.name.name.to_string(), addresses)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_streaming_list_ends_as_recorded() {
    let wire = recorded("watch-list.jsonl");
    let api = Api::default();
    api.script(Resource::EndpointSlices, Scripted::Lines(wire.clone(), None));
    let mut watched = Watched::start(&api);
    let end = outcome(&wire);
    watched.until("the recorded outcome", |watched| slices(watched) == end).await;
    let initial: Vec<_> =
        wire.lines().take_while(|line| !line.contains("initial-events-end")).collect();
    let initial = outcome(&initial.join("\n"));
    assert_eq!(watched.replaced(Kind::EndpointSlice)[0].len(), initial.len());
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn the_watch_resumed_after_the_list_ends_as_recorded() {
    let (list, changes) = (recorded("watch-list.jsonl"), recorded("watch.jsonl"));
    let end = list.find("initial-events-end").unwrap();
    let end = end + list[end..].find('\n').unwrap() + 1;
    let api = Api::default();
    let first = Scripted::Lines(list[..end].to_owned(), Some(Cut::End));
    api.script(Resource::EndpointSlices, first);
    api.script(Resource::EndpointSlices, Scripted::Lines(changes.clone(), None));
    let mut watched = Watched::start(&api);
    let expected = outcome(&(list[..end].to_owned() + &changes));
    watched.until("the recorded outcome", |watched| slices(watched) == expected).await;
    let asked = api.asked(Resource::EndpointSlices);
    assert_eq!(asked[1].get("resourceVersion"), "563", "{asked:?}");
    assert_eq!(asked[1].get("sendInitialEvents"), "", "{asked:?}");
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn the_expiry_leads_to_a_new_list() {
    let api = super::objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.script(
        Resource::Services,
        Scripted::Lines(recorded("watch-expired.jsonl"), Some(Cut::End)),
    );
    api.cut(Resource::Services, Cut::End);
    watched.until("second list", |watched| watched.replaced(Kind::Service).len() == 2).await;
    watched.never_failed();
}

#[tokio::test(start_paused = true)]
async fn the_pages_become_one_list() {
    let mut last: Value = serde_json::from_str(&recorded("list-page-2.json")).unwrap();
    last["metadata"]["continue"] = json!("");
    let api = Api::default();
    api.fault_once(Resource::Services, Fault::NoStreamingLists);
    api.script(Resource::Services, Scripted::Whole(200, recorded("list-page-1.json")));
    api.script(Resource::Services, Scripted::Whole(200, last.to_string()));
    let mut watched = Watched::start(&api);
    watched.until_listed().await;
    let mut names = Vec::new();
    for file in ["list-page-1.json", "list-page-2.json"] {
        let page: Value = serde_json::from_str(&recorded(file)).unwrap();
        for item in page["items"].as_array().unwrap() {
            names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(watched.replaced(Kind::Service), [names]);
    let first: Value = serde_json::from_str(&recorded("list-page-1.json")).unwrap();
    let asked = api.asked(Resource::Services);
    assert_eq!(asked[2].get("continue"), first["metadata"]["continue"].as_str().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_writes_what_the_real_server_writes() {
    // One line of each, the object cut down to what both have.
    let api = Api::default();
    api.script(Resource::Services, Scripted::Whole(400, recorded("bad-continue.json")));
    let real: Value = serde_json::from_str(&recorded("bad-continue.json")).unwrap();
    let asked = "/api/v1/services?limit=2&continue=abcd.";
    let answer = |_| match api.answer(asked, &[], std::time::Duration::ZERO) {
        sockline_testbed::api::Answer::Whole { body, .. } => {
            serde_json::from_str::<Value>(&body).unwrap()
        }
        _ => panic!("a page was asked for"),
    };
    assert_eq!(answer(0), real);
    assert_eq!(answer(1), real);
    let expired: Value = serde_json::from_str(&recorded("watch-expired.jsonl")).unwrap();
    let mut ours: Value = serde_json::from_str(
        &sockline_testbed::api::Refusal::new(410, "Expired", "too old resource version: 20 (687)")
            .event(),
    )
    .unwrap();
    assert_eq!(ours.take(), expired);
}
