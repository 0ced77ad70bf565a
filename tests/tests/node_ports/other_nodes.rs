//! NodePorts at the addresses of nodes that are added and removed at the API server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::common::{WebNode, eventually, holds, options, series};
use serde_json::{Value, json};
use sockline_testbed::{
    Agent, AgentOptions,
    api::{Api, Server},
    objects,
};

const NODE_PORT: u16 = 30_080;
const OTHERS: u32 = 300;

/// The nodes of the cluster are at addresses that no machine has: an answer means that the call was translated.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc633_6400 + number)
}

/// A Node as a kubelet reports it, cut down to some kilobytes.
fn other_node(number: u32) -> Value {
    let images: Vec<Value> = (0..50)
        .map(|image| {
            let digest = format!("{image:064x}");
            json!({
                "names": [format!("registry.example/team/application-{image}@sha256:{digest}")],
                "sizeBytes": 123_456_789,
            })
        })
        .collect();
    let mut node = objects::node_at(&format!("node-{number}"), &[address(number).into()]);
    let hostname = json!({"type": "Hostname", "address": format!("node-{number}")});
    node["status"]["addresses"].as_array_mut().unwrap().push(hostname);
    node["status"]["images"] = images.into();
    node
}

struct LargeCluster {
    agent: Agent,
    api: Api,
    server: Server,
    node: WebNode,
}

fn agent_options(node: &WebNode, server: &Server, args: &[&str]) -> AgentOptions {
    let kubeconfig = server.kubeconfig(node.temp()).unwrap();
    AgentOptions { kubeconfig: Some(kubeconfig), ..options(args) }
}

fn large_cluster() -> LargeCluster {
    let node = WebNode::new(1);
    let api = Api::default();
    api.apply(&objects::node());
    (0..OTHERS).for_each(|number| api.apply(&other_node(number)));
    let mut service = objects::web_service("cart", "10.96.0.1");
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    api.apply(&service);
    api.apply(&objects::slice("cart", &node.web_addresses()));
    let listener = node.outside().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::start(&api, listener.unwrap()).unwrap();
    let options = agent_options(&node, &server, &["--nodeports-of-all-nodes"]);
    let agent = node.agent(&options).unwrap();
    LargeCluster { agent, api, server, node }
}

/// Whether the NodePort is at a node's address.
fn is_served(node: &WebNode, number: u32) -> Result<(), String> {
    let to = SocketAddr::new(address(number).into(), NODE_PORT);
    let answer = node.client.tcp_ask(to);
    holds(answer.as_ref().is_ok_and(|reply| reply.peer == to), format!("{answer:?}"))
}

impl LargeCluster {
    fn is_served(&self, number: u32) -> Result<(), String> {
        is_served(&self.node, number)
    }

    fn is_untouched(&self, number: u32) -> Result<(), String> {
        holds(self.is_served(number).is_err(), "it is served")
    }
}

#[test]
fn node_ports_follow_nodes_that_are_added_and_removed() {
    let large_cluster = large_cluster();
    large_cluster.is_served(0).unwrap();
    large_cluster.is_served(OTHERS - 1).unwrap();
    large_cluster.is_untouched(OTHERS).unwrap();
    let frontends = || series(&large_cluster.agent.metrics().unwrap(), "sockline_frontends");
    let before = frontends();
    large_cluster.api.apply(&other_node(OTHERS));
    eventually("the new node's NodePort", || large_cluster.is_served(OTHERS));
    large_cluster.api.delete(&other_node(0));
    eventually("the old node's NodePort to be gone", || large_cluster.is_untouched(0));
    large_cluster.is_served(1).unwrap();
    assert_eq!(frontends(), before, "nodes are no frontends");
    // Heartbeats of other nodes cause no sync.
    let everything =
        || series(&large_cluster.agent.metrics().unwrap(), "sockline_syncs_total{scope=\"full\"}");
    let syncs = everything();
    let mut beat = other_node(1);
    beat["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    large_cluster.api.apply(&beat);
    large_cluster.api.apply(&other_node(OTHERS + 1));
    eventually("another node's NodePort", || large_cluster.is_served(OTHERS + 1));
    assert_eq!(everything(), syncs);
}

#[test]
fn node_ports_stay_at_all_nodes_without_an_agent_and_are_removed_without_the_option() {
    let LargeCluster { mut agent, server, node, api } = large_cluster();
    agent.stop().unwrap();
    let to = SocketAddr::new(address(7).into(), NODE_PORT);
    assert_eq!(node.client.tcp_ask(to).unwrap().peer, to);
    let mut again =
        node.agent(&agent_options(&node, &server, &["--nodeports-of-all-nodes"])).unwrap();
    assert_eq!(node.client.tcp_ask(to).unwrap().peer, to);
    again.stop().unwrap();
    let _without = node.agent(&agent_options(&node, &server, &[])).unwrap();
    node.client.tcp_ask(to).unwrap_err();
    drop(api);
}

/// Without an agent, a mistake is made in the manifest of the nodes.
#[test]
fn node_ports_stay_at_all_nodes_until_the_nodes_can_be_read_in_full_again() {
    let node = WebNode::new(1);
    let mut service = objects::web_service("cart", "10.96.0.1");
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    node.put("nodes.yaml", &[other_node(1), other_node(2)]);
    let args = ["--nodeports-of-all-nodes"];
    let mut agent = node.start_agent_with(&args);
    let is_served = |number: u32| is_served(&node, number);
    is_served(1).unwrap();
    is_served(2).unwrap();
    agent.stop().unwrap();
    node.put_text("nodes.yaml", "]");
    let next = node.start_agent_with(&args);
    is_served(1).unwrap();
    is_served(2).unwrap();
    let frontends = || series(&next.metrics().unwrap(), "sockline_frontends").unwrap();
    let before = frontends();
    // Also after a sync of something else.
    node.put_service("ship", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    is_served(1).unwrap();
    is_served(2).unwrap();
    // Nodes that were removed without an agent are removed now.
    node.put("nodes.yaml", &[other_node(2)]);
    eventually("the old node's NodePort to be gone", || {
        holds(is_served(1).is_err(), "it is served")
    });
    is_served(2).unwrap();
    eventually("only the other service to be counted", || {
        holds(frontends() == before + 2.0, frontends())
    });
}
