//! The class of traffic to each endpoint, from the objects of an API server: this node's zone is its Node's label, an
//! endpoint's node and zone are those of its EndpointSlice.

use std::{collections::BTreeMap, net::TcpStream};

use serde_json::{Value, json};
use sockline_testbed::{
    Agent,
    api::{Api, Server},
    objects,
};

use super::kubernetes::{on_api, serve};
use crate::common::{CART, WebNode, eventually, holds, ip};

const NODE: &str = "node-a";

/// The service `cart` with three endpoints, on this node and two others.
struct Cluster {
    node: WebNode,
    api: Api,
    agent: Agent,
    _server: Server,
}

impl Cluster {
    /// This node is in `zone-0`, as `node-b` is.
    fn new() -> Self {
        let node = WebNode::new(3);
        let api = Api::default();
        for (name, zone) in [(NODE, "zone-0"), ("node-b", "zone-0"), ("node-c", "zone-1")] {
            api.apply(&objects::node_in_zone(name, zone));
        }
        api.apply(&slice(&node, [(NODE, "zone-0"), ("node-b", "zone-0"), ("node-c", "zone-1")]));
        api.apply(&objects::service("cart", CART));
        let server = serve(&node, &api, 0);
        let agent = node.agent(&on_api(&node, &server)).unwrap();
        Self { node, api, agent, _server: server }
    }

    /// The classes of the endpoints in their order, as `sockline backends` shows them.
    fn classes(&self) -> String {
        let list = self.node.json(&["backends", "shop/cart"]);
        let ports = list["items"].as_array().unwrap();
        let of = |port: &Value| {
            let backends = port["backends"].as_array().unwrap().iter();
            let class = |field: &Value| field.as_str().unwrap().to_owned();
            let by_address: BTreeMap<String, String> = backends
                .map(|backend| (class(&backend["address"]), class(&backend["trafficClass"])))
                .collect();
            by_address.into_values().collect::<Vec<_>>().join(" ")
        };
        let all: Vec<String> = ports.iter().map(of).collect();
        assert_eq!(all[0], all[1], "the TCP and the UDP port have the same endpoints");
        all[0].clone()
    }

    #[track_caller]
    fn eventually(&self, expected: &str) {
        eventually(&format!("the classes {expected}"), || {
            let classes = self.classes();
            holds(classes == expected, classes)
        });
    }
}

/// The endpoints of `cart` on these nodes and in these zones.
fn slice(node: &WebNode, places: [(&str, &str); 3]) -> Value {
    let mut slice = objects::slice("cart", &node.web_addresses());
    let endpoints = slice["endpoints"].as_array_mut().unwrap();
    for (endpoint, (node, zone)) in endpoints.iter_mut().zip(places) {
        endpoint["nodeName"] = json!(node);
        endpoint["zone"] = json!(zone);
    }
    slice
}

#[test]
fn classes_follow_the_zone_of_this_node_and_the_slices() {
    let cluster = Cluster::new();
    assert_eq!(cluster.classes(), "same-node same-zone other-zone");
    cluster.api.apply(&objects::node_in_zone(NODE, "zone-1"));
    cluster.eventually("same-node other-zone same-zone");
    // What counts is where the slice says that an endpoint is.
    cluster.api.apply(&objects::node_in_zone("node-b", "zone-1"));
    cluster.api.delete(&objects::node_in_zone("node-c", "zone-1"));
    cluster.api.apply(&slice(
        &cluster.node,
        [("node-b", "zone-1"), (NODE, "zone-1"), ("node-c", "zone-2")],
    ));
    cluster.eventually("same-zone same-node other-zone");
    // Without the label.
    cluster.api.apply(&objects::node());
    cluster.eventually("unknown same-node unknown");
    cluster.api.apply(&objects::node_in_zone(NODE, "zone-2"));
    cluster.eventually("other-zone same-node same-zone");
    cluster.node.eventually_no_input_errors();
}

/// A Node is deleted and created again when its name is reused, or by mistake.
#[test]
fn without_its_node_this_nodes_endpoints_are_known_and_all_others_unknown() {
    let cluster = Cluster::new();
    let open = cluster.node.client.run(|| TcpStream::connect((ip(CART), 80))).unwrap();
    cluster.api.delete(&objects::node());
    cluster.eventually("same-node unknown unknown");
    eventually("the error", || {
        let errors = cluster.node.wrong("invalidObjects");
        let consequence = "endpoints are chosen as if it had no zone";
        holds(errors.len() == 1 && errors[0].contains(consequence), format!("{errors:?}"))
    });
    // All endpoints are still served, and connections stay.
    assert_eq!(cluster.node.spread(CART, 100).len(), 3, "{}", cluster.agent.log());
    assert_eq!(open.peer_addr().unwrap().ip(), ip(CART));
    cluster.api.apply(&objects::node_in_zone(NODE, "zone-1"));
    cluster.eventually("same-node other-zone same-zone");
    cluster.node.eventually_no_input_errors();
}
