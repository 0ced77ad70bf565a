//! The connect of `sockline trace`, and what it says of it.

use std::mem::offset_of;

use serde_json::json;
use sockline::dataplane::Pins;
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{Ns, bpf::RawMap, objects};

use super::{READY, endpoint, slice, text, trace, traced};
use crate::common::{CART, WebNode, damage::Damage, eventually, holds};

#[test]
fn the_endpoint_of_the_connect_is_the_one_that_answered() {
    let (node, _agent) = WebNode::serving(3, &[]);
    for port in ["web", "80"] {
        let before: Vec<usize> = node.webs.iter().map(|web| web.tcp.hits()).collect();
        let target = format!("shop/cart:{port}");
        let report = traced(&trace(&node, &node.client, &[&target, "-o", "json"]));
        let connect = &report["connect"];
        assert_eq!(connect["connected"], true, "{connect:#}");
        assert_eq!(connect["peer"], format!("{CART}:80"));
        let answered = eventually("a pod to accept the connection", || {
            let new = node.webs.iter().zip(&before).position(|(web, hits)| web.tcp.hits() > *hits);
            new.ok_or("no pod has accepted it")
        });
        let address = node.webs[answered].pod.addresses()[0].to_string();
        assert_eq!(connect["endpoint"], json!({"address": address, "port": 8080}));
        assert!(connect["took"].as_str().unwrap().ends_with('s'), "{connect:#}");
    }
    let udp = text(&trace(&node, &node.client, &["shop/cart:dns"]));
    assert!(udp.contains("10.96.0.1:53, UDP: translated to 10.244.1."), "{udp}");
    assert!(
        udp.contains("; connected in ")
            && udp.contains(", nothing was sent; getpeername() returns"),
        "{udp}"
    );
    assert!(node.webs.iter().all(|web| web.udp.hits() == 0));
}

#[test]
fn a_connect_that_fails_says_why() {
    let (node, _agent) = WebNode::serving(0, &[]);
    let refused = text(&trace(&node, &node.client, &["shop/cart:web"]));
    assert!(refused.contains("refuse (no-endpoints)"), "{refused}");
    assert!(refused.contains("TCP: refused by the programs (no-endpoints); "), "{refused}");
    assert!(
        refused.contains("no EndpointSlice of the Service has an endpoint for it"),
        "{refused}"
    );
    // A pod without a server, and one that is not there.
    let pod = node.pod("silent", &["10.244.1.77".parse().unwrap()]).unwrap();
    node.put(
        "cart.yaml",
        &[
            objects::service("cart", CART),
            slice("cart-1", &[endpoint("10.244.1.77", "node-a", READY)]),
        ],
    );
    eventually("a connect to be translated, and refused", || {
        let refused = text(&trace(&node, &node.client, &["shop/cart:web"]));
        let said = "TCP: translated to 10.244.1.77:8080; Connection refused";
        holds(refused.contains(said), refused)
    });
    drop(pod);
    let outside = text(&trace(&node, node.outside(), &["shop/cart:web", "--timeout", "250ms"]));
    assert!(
        outside.contains(
            "not translated: this command is not in the cgroup that the programs are attached to"
        ),
        "{outside}"
    );
}

/// What the maps say of the address is no reason if the programs cannot have handled the call.
#[test]
fn a_refusal_is_claimed_only_where_the_programs_can_have_refused() {
    let (node, mut agent) = WebNode::serving(0, &[]);
    let connect = |place: &Ns| {
        let output = trace(&node, place, &["shop/cart:web", "--timeout", "250ms", "-o", "json"]);
        traced(&output)["connect"]["message"].as_str().unwrap().to_owned()
    };
    let refused = connect(&node.client);
    assert!(refused.starts_with("refused by the programs (no-endpoints); "), "{refused}");
    let outside = connect(node.outside());
    assert!(outside.starts_with("not translated: this command is not in the cgroup"), "{outside}");
    agent.kill().unwrap();
    Damage::of(&node).detach("connect4");
    let detached = connect(&node.client);
    assert!(
        detached.starts_with("not translated: the program for connect4 is not attached"),
        "{detached}"
    );
    let offset = offset_of!(AgentState, fail_open_deadline);
    let state = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("AGENT_STATE")).unwrap();
    let key = 0u32.to_ne_bytes();
    let mut value = state.get(&key).unwrap().unwrap();
    value[offset..][..8].copy_from_slice(&1u64.to_ne_bytes());
    state.set(&key, &value).unwrap();
    let open = connect(&node.client);
    assert!(
        open.starts_with("not translated: the agent has been away for too long, and all calls"),
        "{open}"
    );
}

#[test]
fn without_records_of_tcp_sockets_it_is_unknown_whether_a_connect_was_translated() {
    let (node, _agent) = WebNode::serving(1, &["--without-features", "kernel-sockets"]);
    let report = traced(&trace(&node, &node.client, &["shop/cart:web", "-o", "json"]));
    assert_eq!(
        report["connect"]["message"],
        "whether it was translated is unknown: without the feature kernel-sockets the records of TCP sockets cannot be \
         read; connected"
    );
}

/// The older Service has the address. Also without an agent, external addresses are not connected to.
#[test]
fn only_the_services_own_cluster_ip_is_connected_to() {
    let mut older = objects::web_service("cart", CART);
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    let mut newer = objects::web_service("lost", CART);
    newer["metadata"]["creationTimestamp"] = "2021-01-01T00:00:00Z".into();
    newer["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    let slices = ["cart", "lost"].map(|service| {
        let mut slice = slice(service, &[endpoint("10.244.1.1", "node-a", READY)]);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = service.into();
        slice
    });
    let node = WebNode::new(1);
    node.put("all.yaml", &[&[older, newer], &slices[..]].concat());
    let mut agent = node.start_agent();
    let said = || {
        let report = traced(&trace(&node, &node.client, &["shop/lost", "-o", "json"]));
        assert_eq!(report.get("connect"), None, "{report:#}");
        let messages = report["messages"].as_array().unwrap().clone();
        messages.last().unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(said(), "no connect was tried: another Service has the ClusterIP");
    agent.stop().unwrap();
    assert_eq!(said(), "no connect was tried: its ClusterIP is not in the maps");
}
