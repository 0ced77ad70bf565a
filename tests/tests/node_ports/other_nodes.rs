//! NodePorts at the addresses of nodes that come and go at the API server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::common::{Stage, eventually, holds, options, series};
use serde_json::{Value, json};
use sockline_testbed::{
    Agent, AgentOptions,
    api::{Api, Server},
    objects,
};

const NODE_PORT: u16 = 30_080;
const OTHERS: u32 = 300;

/// The nodes of the cluster are at addresses that nobody has: whoever answers was translated.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc633_6400 + number)
}

/// A Node with what a kubelet reports of it, cut down to some kilobytes.
fn node(number: u32) -> Value {
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

struct World {
    agent: Agent,
    api: Api,
    server: Server,
    stage: Stage,
}

fn agent_options(stage: &Stage, server: &Server, args: &[&str]) -> AgentOptions {
    let kubeconfig = server.kubeconfig(stage.node.temp()).unwrap();
    AgentOptions { kubeconfig: Some(kubeconfig), ..options(args) }
}

fn world() -> World {
    let stage = Stage::new(1);
    let api = Api::default();
    api.apply(&objects::node());
    (0..OTHERS).for_each(|number| api.apply(&node(number)));
    let mut service = objects::web_service("cart", "10.96.0.1");
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    api.apply(&service);
    api.apply(&objects::slice("cart", &stage.addresses()));
    let listener = stage.node.outside().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::start(&api, listener.unwrap()).unwrap();
    let options = agent_options(&stage, &server, &["--nodeports-of-all-nodes"]);
    let agent = stage.node.agent(&options).unwrap();
    World { agent, api, server, stage }
}

/// Whether the NodePort is at a node's address.
fn is_served(stage: &Stage, number: u32) -> Result<(), String> {
    let to = SocketAddr::new(address(number).into(), NODE_PORT);
    let answer = stage.client.tcp_ask(to);
    holds(answer.as_ref().is_ok_and(|reply| reply.peer == to), format!("{answer:?}"))
}

impl World {
    fn is_served(&self, number: u32) -> Result<(), String> {
        is_served(&self.stage, number)
    }

    fn is_untouched(&self, number: u32) -> Result<(), String> {
        holds(self.is_served(number).is_err(), "it is served")
    }
}

#[test]
fn node_ports_are_at_nodes_that_come_and_no_longer_at_nodes_that_go() {
    let world = world();
    world.is_served(0).unwrap();
    world.is_served(OTHERS - 1).unwrap();
    world.is_untouched(OTHERS).unwrap();
    let frontends = || series(&world.agent.metrics().unwrap(), "sockline_frontends");
    let before = frontends();
    world.api.apply(&node(OTHERS));
    eventually("the new node's NodePort", || world.is_served(OTHERS));
    world.api.delete(&node(0));
    eventually("the old node's NodePort to be gone", || world.is_untouched(0));
    world.is_served(1).unwrap();
    assert_eq!(frontends(), before, "nodes are no frontends");
    // Heartbeats of other nodes are no reason to look at anything.
    let everything =
        || series(&world.agent.metrics().unwrap(), "sockline_syncs_total{scope=\"full\"}");
    let syncs = everything();
    let mut beat = node(1);
    beat["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    world.api.apply(&beat);
    world.api.apply(&node(OTHERS + 1));
    eventually("another node's NodePort", || world.is_served(OTHERS + 1));
    assert_eq!(everything(), syncs);
}

#[test]
fn node_ports_stay_at_all_nodes_without_an_agent_and_go_with_the_option() {
    let World { mut agent, server, stage, api } = world();
    agent.stop().unwrap();
    let to = SocketAddr::new(address(7).into(), NODE_PORT);
    assert_eq!(stage.client.tcp_ask(to).unwrap().peer, to);
    let mut again =
        stage.node.agent(&agent_options(&stage, &server, &["--nodeports-of-all-nodes"])).unwrap();
    assert_eq!(stage.client.tcp_ask(to).unwrap().peer, to);
    again.stop().unwrap();
    let _without = stage.node.agent(&agent_options(&stage, &server, &[])).unwrap();
    stage.client.tcp_ask(to).unwrap_err();
    drop(api);
}

/// What a folder has of nodes is read again with a mistake in it, while no agent runs.
#[test]
fn node_ports_stay_at_all_nodes_until_the_nodes_can_be_read_in_full_again() {
    let stage = Stage::new(1);
    let mut service = objects::web_service("cart", "10.96.0.1");
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    stage.put("cart.yaml", &[service, objects::slice("cart", &stage.addresses())]);
    stage.put("nodes.yaml", &[node(1), node(2)]);
    let args = ["--nodeports-of-all-nodes"];
    let mut agent = stage.agent_with(&args);
    let is_served = |number: u32| is_served(&stage, number);
    is_served(1).unwrap();
    is_served(2).unwrap();
    agent.stop().unwrap();
    stage.put_text("nodes.yaml", "]");
    let next = stage.agent_with(&args);
    is_served(1).unwrap();
    is_served(2).unwrap();
    let frontends = || series(&next.metrics().unwrap(), "sockline_frontends").unwrap();
    let before = frontends();
    // Also after a sync of something else.
    stage.put_service("ship", "10.96.0.2");
    stage.eventually_served("10.96.0.2");
    is_served(1).unwrap();
    is_served(2).unwrap();
    // What went while no agent ran goes now.
    stage.put("nodes.yaml", &[node(2)]);
    eventually("the old node's NodePort to be gone", || {
        holds(is_served(1).is_err(), "it is served")
    });
    is_served(2).unwrap();
    eventually("only the other service to be counted", || {
        holds(frontends() == before + 2.0, frontends())
    });
}
