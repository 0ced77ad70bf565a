//! Which addresses are the node's own, so that NodePorts are at them.

mod option;
mod services;
mod unreadable;

use std::{
    fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    process::Command,
};

use serde_json::{Value, json};
use sockline_testbed::{Cluster, Node, Pod, Service, TcpServer, WebCluster};

const NODE_PORT: u16 = 30_080;
const OWN: &str = "192.0.2.10";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn web() -> Service {
    Service::new("web").ip("10.96.0.1").tcp(80).to(WebCluster::PORT).node_port(NODE_PORT)
}

/// A pod that serves `web`, a client pod, and an agent with these arguments.
struct NodeWithPodAndClient {
    _server: TcpServer,
    web: Pod,
    client: Pod,
    cluster: Cluster,
}

impl NodeWithPodAndClient {
    fn with(args: &[&str], others: impl IntoIterator<Item = Service>) -> Self {
        Self::prepared(args, others, |_| {}, vec![])
    }

    /// As [`Self::with`], with devices and objects that exist before the agent starts.
    fn prepared(
        args: &[&str],
        others: impl IntoIterator<Item = Service>,
        prepare: impl FnOnce(&Node),
        objects: Vec<Value>,
    ) -> Self {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        prepare(cluster.node());
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        let server = web.tcp_server(WebCluster::PORT).unwrap();
        let mut this = Self { _server: server, web, client, cluster };
        let services: Vec<Service> =
            others.into_iter().chain([self::web()]).map(|s| s.endpoints([&this.web])).collect();
        this.cluster.set_objects(objects);
        this.cluster.apply(services).unwrap();
        this
    }

    fn node(&self) -> &Node {
        self.cluster.node()
    }

    #[track_caller]
    fn assert_served(&self, ip: &str, port: u16) {
        let reply = self.client.tcp_ask(at(ip, port)).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", at(ip, port)));
    }

    /// Nothing listens at the node's own addresses, and no other address has a route.
    #[track_caller]
    fn assert_not_served(&self, ip: &str, port: u16) {
        let answer = self.client.tcp_ask(at(ip, port));
        let error = answer.expect_err("it is no address of the node");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }

    /// The pod that answers on the node's loopback.
    fn on_loopback(&self) -> io::Result<String> {
        self.node().tcp_ask(at("127.0.0.1", NODE_PORT)).map(|reply| reply.who)
    }

    /// The number of full syncs, and of service addresses in the kernel.
    fn syncs_and_frontends(&self) -> (f64, f64) {
        syncs_and_frontends(&self.cluster)
    }
}

fn syncs_and_frontends(cluster: &Cluster) -> (f64, f64) {
    let metrics = cluster.metrics().unwrap();
    let everything = metrics.sum("sockline_syncs_total", &[("scope", "full")]);
    (everything, metrics.sum("sockline_frontends", &[]))
}

/// Runs `ip` with these lines where the agent runs.
fn ip(node: &Node, lines: &str) {
    let file = node.temp().join("addresses.batch");
    fs::write(&file, lines).unwrap();
    let done = node.outside().output(Command::new("ip").arg("-batch").arg(&file)).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The node's Node object, with an address of each type.
fn own_node(internal: &str, external: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a"},
        "status": {"addresses": [
            {"type": "Hostname", "address": "node-a"},
            {"type": "ExternalIP", "address": external},
            {"type": "InternalIP", "address": internal},
        ]},
    })
}
