//! `sockline services` and `sockline backends`, and the status beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_testbed::{AgentOptions, Node, objects};

use super::SHIP;
use crate::common::{WebNode, error_of, eventually, fixtures, holds, options, series};

#[test]
fn the_kernel_holds_the_plan_of_every_recorded_feature() {
    let node = WebNode { node: Node::new().unwrap(), ..WebNode::new(0) };
    let folder = fixtures("features");
    let recorded = AgentOptions { manifests: Some(folder.clone()), ..options(&[]) };
    let _agent = node.agent(&recorded).unwrap();
    let folder = folder.to_str().unwrap();
    let output =
        node.sockline(&["plan", "--manifests", folder, "--node-name", "node-a", "-o", "json"]);
    assert!(output.status.success(), "{}", error_of(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernel = node.json(&["services"]);
    let (planned, held) = (by_address(&plan["frontends"]), by_address(&kernel["items"]));
    for (address, frontend) in &planned {
        assert_eq!(held.get(address), Some(frontend), "{address:?}");
    }
    // No more, and in the same order.
    assert_eq!(kernel["items"], plan["frontends"]);
    let actions: BTreeSet<&str> =
        planned.values().map(|frontend| frontend["action"].as_str().unwrap()).collect();
    assert_eq!(actions, BTreeSet::from(["bypass", "forward", "refuse"]), "the fixture shows all");
}

fn by_address(frontends: &Value) -> BTreeMap<[String; 4], Value> {
    let frontends = frontends.as_array().unwrap();
    let key = |frontend: &Value| {
        ["address", "family", "port", "protocol"].map(|field| frontend[field].to_string())
    };
    frontends.iter().map(|frontend| (key(frontend), frontend.clone())).collect()
}

#[test]
fn the_backends_of_one_service_can_be_listed() {
    let (node, _agent) = WebNode::serving(2, &[]);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let mut listing = node.json(&["backends", "shop/cart"]);
    // Other tests cover what is counted of each.
    for backend in listing.pointer_mut("/items").and_then(Value::as_array_mut).unwrap() {
        for backend in backend["backends"].as_array_mut().unwrap() {
            assert!(backend["connections"].is_u64(), "{backend}");
            let of_plan = |key: &String| ["address", "port", "weight"].contains(&key.as_str());
            backend.as_object_mut().unwrap().retain(|key, _| of_plan(key));
        }
    }
    let backends = |port: u16| {
        json!([
            {"address": "10.244.1.1", "port": port, "weight": 1},
            {"address": "10.244.1.2", "port": port, "weight": 1},
        ])
    };
    let service = |name: &str, protocol: &str, port: u16| {
        json!({
            "service": {"namespace": "shop", "name": "cart"},
            "portName": name,
            "protocol": protocol,
            "backends": backends(port),
        })
    };
    let expected = [service("dns", "UDP", 8053), service("web", "TCP", 8080)];
    let expected = json!({
        "apiVersion": "sockline.dev/v1",
        "kind": "BackendList",
        "nodeName": "node-a",
        "items": expected,
    });
    assert_eq!(listing, expected);
}

#[test]
fn the_backends_of_an_unknown_service_are_an_error() {
    let (node, _agent) = WebNode::serving(2, &[]);
    let output = node.look(&["backends", "shop/none"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        error_of(&output),
        "error: the kernel serves no service shop/none (`sockline services` lists them)\n"
    );
}

#[test]
fn an_agent_that_has_ended_is_not_shown_as_running_while_another_command_reads() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    assert_eq!(node.condition("AgentRunning"), "True");
    agent.stop().unwrap();
    // As another `sockline status` holds it while it looks for another holder.
    let root = File::open(Pins::in_bpffs(node.bpffs()).root()).unwrap();
    let _other =
        Flock::lock(root, FlockArg::LockSharedNonblock).map_err(|(_, error)| error).unwrap();
    assert_eq!(node.condition("AgentRunning"), "False");
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("not running"), "{table}");
}

#[test]
fn parallel_commands_show_no_agent_that_is_not_there() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    agent.stop().unwrap();
    let pins = Pins::in_bpffs(node.bpffs());
    let seen = std::thread::scope(|scope| {
        let look = || (0..2000).filter(|_| pins.are_locked().unwrap()).count();
        let lookers: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
        lookers.into_iter().map(|looker| looker.join().unwrap()).sum::<usize>()
    });
    assert_eq!(seen, 0);
}

#[test]
fn status_has_one_count_of_frontends() {
    let (node, agent) = WebNode::serving(2, &[]);
    let mut service = objects::service("ship", SHIP);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(30080);
    node.put("ship.yaml", &[service, objects::slice("ship", &node.web_addresses())]);
    node.eventually_served(SHIP);
    // Two services of two ports each, and a NodePort at both addresses of the node and two of loopback.
    eventually("the NodePort to be counted once for each address", || {
        let status = node.status();
        let maps = status["agent"]["maps"].as_array().unwrap();
        let of_map = maps.iter().find(|map| map["name"] == "frontends").unwrap();
        let metric = series(&agent.metrics().unwrap(), "sockline_frontends");
        let counts = [status["frontends"].as_f64(), of_map["entries"].as_f64(), metric];
        holds(
            counts[0] > Some(5.0) && counts.iter().all(|count| *count == counts[0]),
            format!("{counts:?}"),
        )
    });
}
