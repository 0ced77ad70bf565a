//! The planner against what kube-proxy 1.36 programmed for the same objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sockline::{
    model::{
        event::Event,
        index::Index,
        object::Object,
        plan::{Action, Backend, Frontend, Reason},
        planner,
    },
    source::manifests::folder::read_folder,
};

/// The load-balancer address with `loadBalancerSourceRanges` in the fixture.
const RESTRICTED: (&str, &str) = ("features/load-balancer", "203.0.113.20");

/// Service, port name, address, port, protocol.
type Key = (String, String, String, u64, String);

/// Action with its reason, endpoints, whether affinity is kept.
#[derive(Debug, PartialEq)]
struct Outcome {
    action: &'static str,
    endpoints: BTreeSet<String>,
    affinity: bool,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn events(name: &str) -> Vec<Event> {
    read_folder(&folder(name)).expect("the fixture folder can be read").into_events()
}

fn index(name: &str, node: &str) -> Index {
    let mut index = Index::new(node);
    events(name).into_iter().for_each(|event| index.apply(event));
    index
}

/// What Sockline should do where kube-proxy does `entry`.
fn expected(entry: &Value) -> (Key, Outcome) {
    let text = |field: &str| entry[field].as_str().expect("text").to_owned();
    let key = (
        text("service"),
        text("port_name"),
        text("address"),
        entry["port"].as_u64().expect("a port"),
        text("protocol"),
    );
    let action = match &*text("action") {
        _ if key.4 == "SCTP" => "pass: protocol",
        _ if (&*key.0, &*key.2) == RESTRICTED => "pass: source ranges",
        "forward" => "forward",
        "reject" => "refuse: no endpoints",
        "drop" => "refuse: no local endpoints",
        other => panic!("unknown action {other}"),
    };
    let forward = action == "forward";
    let endpoints = entry["endpoints"].as_array().expect("a list").iter();
    let endpoints = endpoints.map(|e| e.as_str().expect("text").to_owned()).filter(|_| forward);
    let outcome = Outcome {
        action,
        endpoints: endpoints.collect(),
        affinity: forward && entry["affinity"].as_bool().expect("true or false"),
    };
    (key, outcome)
}

fn actual(frontend: &Frontend) -> (Key, Outcome) {
    let key = (
        frontend.service.to_string(),
        frontend.port_name.to_string(),
        frontend.address.to_string(),
        u64::from(frontend.port),
        frontend.protocol.to_string(),
    );
    let action = match (frontend.action, frontend.reason) {
        (Action::Forward, None) => "forward",
        (Action::Refuse, Some(Reason::NoEndpoints)) => "refuse: no endpoints",
        (Action::Refuse, Some(Reason::NoLocalEndpoints)) => "refuse: no local endpoints",
        (Action::Bypass, Some(Reason::SourceRanges)) => "pass: source ranges",
        (Action::Bypass, Some(Reason::Protocol)) => "pass: protocol",
        other => panic!("{other:?} of {key:?}"),
    };
    let endpoint = |b: &Backend| SocketAddr::new(b.address, b.port).to_string();
    let outcome = Outcome {
        action,
        endpoints: frontend.backends.iter().map(endpoint).collect(),
        affinity: frontend.affinity_seconds.is_some(),
    };
    (key, outcome)
}

/// Both ways: nothing missing, nothing more.
fn assert_equals_kube_proxy(name: &str) {
    let text = std::fs::read_to_string(folder(name).join("kube-proxy.json")).expect("readable");
    let by_node: BTreeMap<String, Vec<Value>> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(by_node.len(), 3, "{name}: nodes");
    for (node, entries) in by_node {
        let plan = index(name, &node).plan();
        let expected: BTreeMap<_, _> = entries.iter().map(expected).collect();
        let actual: BTreeMap<_, _> = plan.frontends.iter().map(|f| actual(f)).collect();
        assert_eq!(actual.len(), plan.frontends.len(), "{name}, {node}: an address twice");
        for key in expected.keys().chain(actual.keys()) {
            assert_eq!(actual.get(key), expected.get(key), "{name}, {node}: {key:?}");
        }
    }
}

#[test]
fn boutique_is_planned_as_kube_proxy_programmed_it() {
    assert_equals_kube_proxy("boutique");
}

#[test]
fn every_service_feature_is_planned_as_kube_proxy_programmed_it() {
    assert_equals_kube_proxy("features");
}

#[test]
fn recorded_objects_have_no_input_errors() {
    for name in ["boutique", "features"] {
        let input_errors: Vec<_> = index(name, "node-a")
            .input_errors()
            .into_iter()
            .filter(|input_error| !input_error.object.as_str().starts_with("file kube-proxy.json"))
            .collect();
        assert!(input_errors.is_empty(), "{name}: {input_errors:#?}");
    }
}

#[test]
fn index_and_whole_plan_agree_on_recorded_objects() {
    for name in ["boutique", "features"] {
        let (mut services, mut slices, mut nodes) = (vec![], vec![], vec![]);
        for event in events(name) {
            let Event::Replace(_, objects) = event else { continue };
            for object in objects.into_iter().filter_map(|sourced| sourced.object) {
                match object {
                    Object::Service(service) => services.push(service),
                    Object::EndpointSlice(slice) => slices.push(slice),
                    Object::Node(node) => nodes.push(node),
                    Object::Namespace(_) | Object::Pod(_) => {}
                }
            }
        }
        for node in ["node-a", "node-b", "node-c", "unknown"] {
            let (whole, _) = planner::plan(&services, &slices, &nodes, node);
            assert_eq!(index(name, node).plan(), whole, "{name}, {node}");
        }
    }
}
