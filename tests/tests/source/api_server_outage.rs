//! An agent reconnects to its API server, whatever happened to the server and to `default/kubernetes`
//! meanwhile. It runs within the node's cgroup, as on a real node.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use crate::common::{
    WebNode, assert_logged_once, error_of, eventually, holds, ip, lines_with, options,
};
use serde_json::{Value, json};
use sockline_testbed::{
    Agent, AgentOptions, Place,
    api::{Api, Server},
    objects, wait_ok,
};

/// `default/kubernetes`, as in the variable `KUBERNETES_SERVICE_HOST` of pods.
const SERVICE: &str = "10.96.0.1:443";
const CART: &str = "10.96.0.2";
/// The control plane's machine, and another machine.
const SERVER: &str = "192.0.2.10:6443";
const OTHER: &str = "192.0.2.11:6443";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// What serves `default/kubernetes` on the node before the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KubeProxy {
    /// It forwards to the API server. (It has its own connection to it, as the real one should.)
    Present,
    /// The agent's kubeconfig has an address that is no service's.
    Absent,
}

/// A cluster whose API server starts and stops.
struct NodeWithApiServer {
    node: WebNode,
    api: Api,
    /// The listeners of the API server; none during an outage.
    servers: Vec<Server>,
    kube_proxy: KubeProxy,
}

impl NodeWithApiServer {
    fn new(kube_proxy: KubeProxy) -> Self {
        let node = WebNode::new(2);
        for configuration in [
            // A separate address for each machine.
            ["addr", "add", "192.0.2.11/32", "dev", "lo"],
            ["addr", "add", "192.0.2.100/32", "dev", "lo"],
            // The address that kube-proxy serves.
            ["route", "add", "local", "10.96.0.1/32", "dev"],
        ] {
            let device = if configuration[0] == "route" { &["lo"][..] } else { &[] };
            let mut ip = Command::new("ip");
            let output = node.outside().output(ip.args(configuration).args(device)).unwrap();
            assert!(
                output.status.success(),
                "ip {}: {}",
                configuration.join(" "),
                error_of(&output)
            );
        }
        let api = Api::default();
        api.apply(&objects::node());
        api.apply(&kubernetes());
        api.apply(&objects::slice("cart", &node.web_addresses()[..1]));
        api.apply(&objects::service("cart", CART));
        let mut cluster = Self { node, api, servers: Vec::new(), kube_proxy };
        cluster.start(SERVER);
        cluster
    }

    /// The API server starts on a machine, and publishes its endpoint.
    fn start(&mut self, machine: &str) {
        let listen = |address: &str| {
            let address = at(address);
            eventually("an address to be free", || {
                self.node.outside().run(|| TcpListener::bind(address))
            })
        };
        let mut listeners = vec![listen(machine)];
        listeners.push(match self.kube_proxy {
            KubeProxy::Present => listen(SERVICE),
            KubeProxy::Absent => listen(STABLE),
        });
        let servers = listeners.into_iter().map(|listener| Server::start(&self.api, listener));
        self.servers = servers.collect::<Result<_, _>>().unwrap();
        self.api.apply(&endpoints(&[machine]));
    }

    /// The API server shuts down in order: it first removes its endpoint, and then serves for a while.
    fn shut_down(&mut self) {
        self.api.apply(&endpoints(&[]));
        // All watches have received it before it ends.
        self.serves("web-1");
        self.serves("web-0");
        self.lose();
    }

    /// The API server is gone at once, without a shutdown.
    fn lose(&mut self) {
        self.servers.clear();
    }

    /// Waits until a change of the cluster is in the kernel: only this pod serves `cart`.
    #[track_caller]
    fn serves(&self, web: &str) {
        let number = usize::from(web == "web-1");
        self.api.apply(&objects::slice("cart", &self.node.web_addresses()[number..=number]));
        // The longest backoff is half a minute.
        let served = wait_ok(Duration::from_secs(60), &format!("{web} to serve"), || {
            let who = self.node.ask(CART).map_err(|error| error.to_string())?;
            holds(who == web, who)
        });
        if let Err(error) = served {
            panic!("{error:#}");
        }
    }

    fn options(&self) -> AgentOptions {
        let server = match self.kube_proxy {
            KubeProxy::Present => SERVICE,
            KubeProxy::Absent => STABLE,
        };
        self.options_at(server)
    }

    fn options_at(&self, server: &str) -> AgentOptions {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = self.node.temp().join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        AgentOptions { kubeconfig: Some(path), place: Place::Within, ..options(&[]) }
    }

    fn agent(&self) -> Agent {
        self.node.agent(&self.options()).unwrap()
    }

    /// A pod reaches the API server at its service address.
    #[track_caller]
    fn pods_reach_it(&self) {
        eventually("a pod to reach the API server", || {
            let reply = self.node.client.run(|| list_nodes(at(SERVICE)));
            let reply = reply.map_err(|error| error.to_string())?;
            holds(reply.starts_with("HTTP/1.1 200 "), reply)
        });
    }

    /// The address that a pod reaches when it dials the API server.
    #[track_caller]
    fn leads_to(&self) -> Vec<String> {
        let listing = self.node.json(&["backends", "default/kubernetes"]);
        let services = listing["items"].as_array().unwrap();
        let backends = services.iter().flat_map(|service| service["backends"].as_array().unwrap());
        backends
            .map(|backend| format!("{}:{}", backend["address"].as_str().unwrap(), backend["port"]))
            .collect()
    }
}

/// The first line of the API server's answer. It does not close connections.
fn list_nodes(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /api/v1/nodes HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// A stable address of the API server.
const STABLE: &str = "192.0.2.100:6443";

fn kubernetes() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                 "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]},
    })
}

fn endpoints(servers: &[&str]) -> Value {
    let endpoints = servers
        .iter()
        .map(|server| json!({"addresses": [at(server).ip()], "conditions": {"ready": true}}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

fn after_a_graceful_restart(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.shut_down();
    assert_eq!(cluster.leads_to(), [SERVER], "what was known stays");
    let reported = "Service default/kubernetes: no endpoint is listed, as when the only API server shuts \
                down; the last ones stay until new ones are listed: 192.0.2.10:6443";
    eventually("it to be reported", || {
        let problems = cluster.node.wrong("invalidObjects");
        holds(problems.iter().any(|problem| problem == reported), format!("{problems:#?}"))
    });
    assert_logged_once(&agent, reported);
    cluster.start(SERVER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    cluster.node.eventually_no_problems();
}

#[test]
fn an_agent_behind_kube_proxy_reconnects_after_the_only_server_restarted() {
    after_a_graceful_restart(KubeProxy::Present);
}

#[test]
fn an_agent_without_kube_proxy_reconnects_after_the_only_server_restarted() {
    after_a_graceful_restart(KubeProxy::Absent);
}

fn after_all_addresses_changed(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let _agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.lose();
    cluster.start(OTHER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    assert_eq!(cluster.leads_to(), [OTHER]);
}

#[test]
fn an_agent_behind_kube_proxy_reconnects_after_all_addresses_changed_at_once() {
    after_all_addresses_changed(KubeProxy::Present);
}

#[test]
fn an_agent_without_kube_proxy_reconnects_after_all_addresses_changed_at_once() {
    after_all_addresses_changed(KubeProxy::Absent);
}

fn with_an_adopted_dead_address(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let mut agent = cluster.agent();
    agent.kill().unwrap();
    cluster.lose();
    cluster.start(OTHER);
    let _next = cluster.agent();
    cluster.serves("web-1");
    cluster.pods_reach_it();
    assert_eq!(cluster.leads_to(), [OTHER]);
}

#[test]
fn a_dead_address_from_an_earlier_agent_does_not_block_behind_kube_proxy() {
    with_an_adopted_dead_address(KubeProxy::Present);
}

#[test]
fn a_dead_address_from_an_earlier_agent_does_not_block_without_kube_proxy() {
    with_an_adopted_dead_address(KubeProxy::Absent);
}

fn with_an_adopted_refusal(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    // There has never been an endpoint.
    cluster.api.apply(&endpoints(&[]));
    let mut agent = cluster.agent();
    assert_eq!(cluster.leads_to(), [""; 0]);
    agent.kill().unwrap();
    cluster.lose();
    cluster.start(SERVER);
    let _next = cluster.agent();
    cluster.pods_reach_it();
    cluster.serves("web-1");
}

#[test]
fn a_refusal_from_an_earlier_agent_is_replaced_behind_kube_proxy() {
    with_an_adopted_refusal(KubeProxy::Present);
}

#[test]
fn a_refusal_from_an_earlier_agent_is_replaced_without_kube_proxy() {
    with_an_adopted_refusal(KubeProxy::Absent);
}

#[test]
fn an_agent_that_restarts_during_the_outage_keeps_the_last_endpoints() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Present);
    let mut agent = cluster.agent();
    cluster.api.apply(&endpoints(&[]));
    cluster.serves("web-1");
    agent.kill().unwrap();
    let _next = cluster.agent();
    assert_eq!(cluster.leads_to(), [SERVER]);
    cluster.lose();
    cluster.start(SERVER);
    cluster.serves("web-0");
    cluster.pods_reach_it();
}

#[test]
fn the_last_known_endpoints_are_dialled_where_the_service_address_is_not_served() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Absent);
    let mut agent = cluster.agent();
    agent.kill().unwrap();
    // Nothing listens there.
    let at_service = cluster.options_at(SERVICE);
    let _next = cluster.node.agent(&at_service).unwrap();
    cluster.shut_down();
    cluster.start(SERVER);
    cluster.serves("web-1");
}

#[test]
fn an_agent_reports_its_state_without_its_server() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Present);
    let mut agent = cluster.agent();
    let row = |name: &str| {
        let status = String::from_utf8(cluster_status(&cluster.node)).unwrap();
        let row = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        row.split_whitespace().skip(1).collect::<Vec<&str>>().join(" ")
    };
    assert_eq!(row("Ready"), "yes");
    assert_eq!(agent.get("/readyz").unwrap().body, "ok\n");
    cluster.servers.clear();
    // Services are served from the last known state: the agent stays ready, and reports the outage.
    eventually("the status to tell that its state is old", || {
        let ready = row("Ready");
        holds(ready.starts_with("yes, but with the state of "), ready)
    });
    let ready = agent.get("/readyz").unwrap();
    assert_eq!(ready.status, 200);
    assert!(ready.body.starts_with("ok, from the state of "), "{}", ready.body);
    assert_eq!(agent.get("/healthz").unwrap().status, 200);

    // An agent that has not reached its server since its start does not know what to serve.
    agent.kill().unwrap();
    let starting = AgentOptions { until_ready: false, ..cluster.options() };
    let next = cluster.node.agent(&starting).unwrap();
    let hint = "deploy/overlays/without-kube-proxy";
    let said = eventually("/readyz to say why", || {
        let reply = next.get("/readyz").map_err(|error| format!("{error:#}"))?;
        let reported = reply.status == 503 && reply.body.contains("watch of ");
        holds(reported, format!("{} {}", reply.status, reply.body)).map(|()| reply.body)
    });
    assert!(said.starts_with("waiting for the first full sync ("), "{said}");
    assert!(said.contains(&format!("{SERVICE}: Connection refused")), "{said}");
    assert!(said.contains(hint), "{said}");
    assert!(row("Ready").starts_with("no: waiting for the first full sync ("), "{}", row("Ready"));
    assert!(row("Ready").contains(hint), "{}", row("Ready"));
    eventually("the log to say so", || {
        let log = next.log();
        holds(!lines_with(&log, hint).is_empty(), log)
    });
    assert_eq!(next.get("/healthz").unwrap().status, 200);
    cluster.node.assert_served(CART);
}

fn cluster_status(node: &WebNode) -> Vec<u8> {
    node.look(&["status"]).stdout
}

#[test]
fn a_control_plane_machine_that_loses_power_is_detected() {
    let cluster = NodeWithApiServer::new(KubeProxy::Absent);
    let machine = cluster.node.pod("machine", &[ip("10.244.7.1")]).unwrap();
    let listener = machine.run(|| TcpListener::bind("10.244.7.1:6443")).unwrap();
    let _lost = Server::start(&cluster.api, listener).unwrap();
    cluster.api.apply(&endpoints(&["10.244.7.1:6443", SERVER]));
    let agent = cluster.node.agent(&cluster.options_at("10.244.7.1:6443")).unwrap();
    cluster.serves("web-1");
    // No packet comes from there any more: no FIN, no RST.
    let route = ["route", "replace", "blackhole", "192.0.2.10/32"];
    let output = machine.output(Command::new("ip").args(route)).unwrap();
    assert!(output.status.success(), "ip {}: {}", route.join(" "), error_of(&output));
    cluster.serves("web-0");
    drop(agent);
}
