//! `sockline trace`: each endpoint's reason, one real connect, and errors.

mod connect;

use std::{
    collections::BTreeMap,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use sockline::cli::documents;
use sockline_testbed::{AgentOptions, Ns, objects, sockline_binary};

use crate::{
    common::{CART, WebNode, error_of, eventually, holds, options},
    json::stand_in,
    schema,
};

/// Runs `sockline trace` in a namespace of the node, with its cgroup.
fn trace(node: &WebNode, place: &Ns, args: &[&str]) -> Output {
    let socket = node.temp().join("admin.sock");
    let mut command = Command::new(sockline_binary().unwrap());
    command.arg("trace").arg("--bpf-root").arg(node.bpffs()).arg("--admin-socket").arg(socket);
    place.output(command.args(args).stdin(Stdio::null())).unwrap()
}

#[track_caller]
fn traced(output: &Output) -> Value {
    assert!(output.status.success(), "{}", error_of(output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let described =
        documents::all().into_iter().find(|described| described.command == "trace").unwrap();
    schema::check(&report, described.schema.as_value(), "TraceReport").unwrap();
    report
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", error_of(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The first port's endpoints by address: the reason, and whether the maps have it.
fn reasons(port: &Value, choice: usize) -> BTreeMap<String, (String, bool)> {
    let endpoints = port["choices"][choice]["endpoints"].as_array().unwrap();
    let entry = |endpoint: &Value| {
        let reason = endpoint["reason"].as_str().unwrap_or("-").to_owned();
        let address = endpoint["address"].as_str().unwrap().to_owned();
        (address, (reason, endpoint["inMaps"].as_bool().unwrap()))
    };
    endpoints.iter().map(entry).collect()
}

fn expected(all: &[(&str, &str, bool)]) -> BTreeMap<String, (String, bool)> {
    let entry = |(address, reason, in_maps): &(&str, &str, bool)| {
        ((*address).to_owned(), ((*reason).to_owned(), *in_maps))
    };
    all.iter().map(entry).collect()
}

/// An endpoint of a slice: its address, its node, and `ready`, `serving` and `terminating`.
fn endpoint(address: &str, node: &str, [ready, serving, terminating]: [bool; 3]) -> Value {
    json!({
        "addresses": [address],
        "nodeName": node,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    })
}

const READY: [bool; 3] = [true, true, false];
const UNREADY: [bool; 3] = [false, false, false];
const DRAINING: [bool; 3] = [false, true, true];
const GONE: [bool; 3] = [false, false, true];

/// A slice of the service `cart` with these endpoints.
fn slice(name: &str, endpoints: &[Value]) -> Value {
    let mut slice = objects::slice("cart", &[]);
    slice["metadata"]["name"] = name.into();
    slice["endpoints"] = endpoints.into();
    slice
}

/// An agent whose only service is `cart`, with these slices.
fn node_with(service: &Value, slices: &[Value]) -> (WebNode, sockline_testbed::Agent) {
    let node = WebNode::new(1);
    node.put("node.yaml", &[objects::node_in_zone("node-a", "zone-1")]);
    node.put("cart.yaml", &[std::slice::from_ref(service), slices].concat());
    let agent = node.start_agent();
    (node, agent)
}

const JSON: [&str; 4] = ["shop/cart:web", "--no-connect", "-o", "json"];

#[test]
fn each_endpoint_is_shown_with_its_reason_and_whether_the_maps_have_it() {
    let mut other_port = slice("cart-3", &[endpoint("10.244.1.6", "node-a", READY)]);
    other_port["ports"] = json!([{"name": "other", "port": 1, "protocol": "TCP"}]);
    let mut of_ipv6 = slice("cart-4", &[endpoint("2001:db8:1::7", "node-a", READY)]);
    of_ipv6["addressType"] = "IPv6".into();
    let first = slice(
        "cart-1",
        &[
            endpoint("10.244.1.1", "node-a", READY),
            endpoint("10.244.1.2", "node-a", UNREADY),
            endpoint("10.244.1.3", "node-a", DRAINING),
            endpoint("10.244.1.4", "node-a", GONE),
            endpoint("10.244.1.5", "node-b", READY),
        ],
    );
    let service = objects::service("cart", CART);
    let (node, _agent) = node_with(&service, &[first, other_port, of_ipv6]);
    let mut report = traced(&trace(&node, &node.client, &JSON));
    let common = [
        ("10.244.1.2", "not-ready", false),
        ("10.244.1.4", "terminating", false),
        ("10.244.1.6", "no-such-port", false),
        ("2001:db8:1::7", "other-family", false),
    ];
    let cluster = [
        ("10.244.1.1", "ready", true),
        ("10.244.1.3", "others-are-ready", false),
        ("10.244.1.5", "ready", true),
    ];
    assert_eq!(reasons(&report["ports"][0], 0), expected(&[&cluster[..], &common].concat()));
    assert_eq!(report["ports"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(report["zone"], "zone-1");
    let frontend = report["ports"][0]["frontends"][0].take();
    let shown = ["type", "address", "port", "action", "backends", "inMaps"];
    assert_eq!(
        shown.map(|field| frontend[field].clone()),
        [
            json!("ClusterIP"),
            json!(CART),
            json!(80),
            json!("forward"),
            json!(2),
            json!("as-planned")
        ]
    );
    assert_eq!(report.get("connect"), None);
}

#[test]
fn policy_local_and_hints_have_their_reasons() {
    let mut service = objects::web_service("cart", CART);
    service["spec"]["internalTrafficPolicy"] = "Local".into();
    service["spec"]["externalTrafficPolicy"] = "Local".into();
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = 30080.into();
    let hinted = |address: &str, node: &str, zone: &str| {
        let mut endpoint = endpoint(address, node, READY);
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        endpoint
    };
    let endpoints =
        [hinted("10.244.1.1", "node-a", "zone-2"), hinted("10.244.1.2", "node-b", "zone-1")];
    let (node, _agent) = node_with(&service, &[slice("cart-1", &endpoints)]);
    let report = traced(&trace(&node, &node.client, &JSON));
    let port = &report["ports"][0];
    let policies: Vec<&Value> =
        (0..2).map(|choice| &port["choices"][choice]["trafficPolicy"]).collect();
    assert_eq!(policies, ["Cluster", "Local"]);
    assert_eq!(
        reasons(port, 0),
        expected(
            &[("10.244.1.1", "hinted-for-other-zones", false), ("10.244.1.2", "ready", true),]
        )
    );
    assert_eq!(
        reasons(port, 1),
        expected(&[("10.244.1.1", "ready", true), ("10.244.1.2", "not-on-this-node", false)])
    );
    let table = text(&trace(&node, &node.client, &["shop/cart:30080", "--no-connect"]));
    for shown in [
        "Node      node-a, zone zone-1",
        "internal Local, external Local: from this node, external addresses have the endpoints of the whole cluster",
        "Endpoints with policy Local",
        "hinted for zones zone-2",
        "not on this node (policy Local)",
    ] {
        assert!(table.contains(shown), "{shown:?} is not in\n{table}");
    }
}

#[test]
fn an_unknown_service_or_port_is_an_error_that_names_others() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    node.put_text(
        "bad.yaml",
        &objects::file::yaml(&[{
            let mut service = objects::web_service("broken", "10.96.0.9");
            service["spec"]["ports"] = json!([{"name": "web", "port": 0}]);
            service
        }]),
    );
    eventually("the broken service to be reported", || {
        let wrong = node.wrong("invalidObjects");
        holds(wrong.iter().any(|wrong| wrong.contains("shop/broken")), format!("{wrong:?}"))
    });
    let mut cases = vec![
        ("shop/crat", "this node serves no Service shop/crat; similar names: shop/cart"),
        ("other/none", "this node serves no Service other/none (`sockline services` lists"),
        ("shop/cart:81", "Service shop/cart has no port 81; it has dns (53/UDP), web (80/TCP)"),
        ("shop/cart:http", "Service shop/cart has no port http; it has dns (53/UDP), web (80/TCP)"),
        (
            "shop/broken",
            "this node serves no Service shop/broken: Service shop/broken: spec.ports: no valid port; ",
        ),
    ];
    for state in ["with an agent", "without one"] {
        for (target, said) in &cases {
            let output = trace(&node, &node.client, &[target]);
            assert_eq!(output.status.code(), Some(1), "{target}");
            let error = error_of(&output)
                .replace("web (80/TCP), dns (53/UDP)", "dns (53/UDP), web (80/TCP)");
            assert!(error.contains(said), "{target} {state}: {error}");
        }
        // Nobody knows what is wrong with it then.
        cases.retain(|(target, _)| *target != "shop/broken");
        agent.stop().unwrap();
    }
    let wrong = trace(&node, &node.client, &["cart"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(error_of(&wrong).contains("\"cart\" is not NAMESPACE/NAME or NAMESPACE/NAME:PORT"));
}

#[test]
fn without_an_agent_or_with_an_older_one_the_maps_are_shown() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    let check = |output: &Output, said: &str| {
        let report = traced(output);
        let message = report["messages"][0].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        let port = &report["ports"][0];
        let in_maps = expected(&[("10.244.1.1", "-", true), ("10.244.1.2", "-", true)]);
        assert_eq!(reasons(port, 0), in_maps);
        assert_eq!(port["choices"][0]["endpoints"][0].get("chosen"), None);
        assert_eq!(report.get("internalTrafficPolicy"), None);
        assert_eq!(report["connect"]["connected"], true, "{report:#}");
    };
    let args = ["shop/cart:web", "-o", "json"];
    let older = stand_in(&node, "older.sock", "404 Not Found", &Value::Null);
    let socket = ["--admin-socket", older.to_str().unwrap()];
    let mut command = Command::new(sockline_binary().unwrap());
    command.arg("trace").arg("--bpf-root").arg(node.bpffs()).args(socket).args(args);
    let output = node.client.output(command.stdin(Stdio::null())).unwrap();
    check(&output, "the agent answers 404 Not Found to /explain; it may be of another version");
    agent.stop().unwrap();
    check(&trace(&node, &node.client, &args), "no agent runs on this node");
    let table = text(&trace(&node, &node.client, &["shop/cart:web"]));
    assert!(
        table.contains("Note      no agent runs on this node: this is what the maps have"),
        "{table}"
    );
}

/// A limit keeps the service's new endpoints out of the maps.
#[test]
fn what_the_maps_do_not_have_as_planned_is_shown() {
    let node = WebNode::new(3);
    node.put_service("cart", CART);
    let _agent = node
        .agent(&AgentOptions { until_ready: false, ..options(&["--max-backends", "4"]) })
        .unwrap();
    eventually("the service to be out of sync", || {
        let wrong = node.wrong("outOfSync");
        holds(!wrong.is_empty(), format!("{:#}", node.status()))
    });
    let output = trace(&node, &node.client, &["shop/cart", "--no-connect", "-o", "json"]);
    let report = traced(&output);
    let states: Vec<&str> = report["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["frontends"][0]["inMaps"].as_str().unwrap())
        .collect();
    assert!(states.contains(&"missing"), "{report:#}");
}

/// A bypassed Service's endpoints are not in the maps, and that is no drift.
#[test]
fn endpoints_of_addresses_that_are_bypassed_are_not_shown_as_missing() {
    let mut service = objects::service("cart", CART);
    service["metadata"]["annotations"]["sockline.dev/redirect"] = "disabled".into();
    let slices = [slice("cart-1", &[endpoint("10.244.1.1", "node-a", READY)])];
    let (node, _agent) = node_with(&service, &slices);
    let table = text(&trace(&node, &node.client, &["shop/cart:web", "--no-connect"]));
    let row = table.lines().find(|line| line.starts_with("10.244.1.1:8080")).unwrap();
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        columns,
        ["10.244.1.1:8080", "node-a", "same-node", "cart-1", "yes", "-", "ready"],
        "{table}"
    );
}
