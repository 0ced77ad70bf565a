//! An agent finds back to its API server, whatever became of the server and of `default/kubernetes`
//! meanwhile. It runs within the node's cgroup, as on a real node.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use crate::common::{
    Stage, assert_logged_once, error_of, eventually, holds, ip, lines_with, options,
};
use serde_json::{Value, json};
use sockline_testbed::{
    Agent, AgentOptions, Place,
    api::{Api, Server},
    objects, wait_ok,
};

/// `default/kubernetes`, as clients have it in `KUBERNETES_SERVICE_HOST`.
const SERVICE: &str = "10.96.0.1:443";
const CART: &str = "10.96.0.2";
/// The control plane's machine, and another one.
const SERVER: &str = "192.0.2.10:6443";
const OTHER: &str = "192.0.2.11:6443";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// What serves `default/kubernetes` on the node before the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KubeProxy {
    /// It leads to the API server. (It has a connection to it of its own, as the real one should.)
    Present,
    /// The agent is told of an address that is no service's.
    Absent,
}

/// A cluster whose API server comes and goes.
struct Cluster {
    stage: Stage,
    api: Api,
    /// Of the API server; none while it is away.
    servers: Vec<Server>,
    kube_proxy: KubeProxy,
}

impl Cluster {
    fn new(kube_proxy: KubeProxy) -> Self {
        let stage = Stage::new(2);
        for configuration in [
            // An address of its own for each machine.
            ["addr", "add", "192.0.2.11/32", "dev", "lo"],
            ["addr", "add", "192.0.2.100/32", "dev", "lo"],
            // Where what kube-proxy translates arrives.
            ["route", "add", "local", "10.96.0.1/32", "dev"],
        ] {
            let device = if configuration[0] == "route" { &["lo"][..] } else { &[] };
            let mut ip = Command::new("ip");
            let output = stage.node.outside().output(ip.args(configuration).args(device)).unwrap();
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
        api.apply(&objects::slice("cart", &stage.addresses()[..1]));
        api.apply(&objects::service("cart", CART));
        let mut cluster = Self { stage, api, servers: Vec::new(), kube_proxy };
        cluster.start(SERVER);
        cluster
    }

    /// The API server starts on a machine, and tells of itself.
    fn start(&mut self, machine: &str) {
        let listen = |address: &str| {
            let address = at(address);
            eventually("an address to be free", || {
                self.stage.node.outside().run(|| TcpListener::bind(address))
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

    /// The API server shuts down in order: first it takes its endpoint away, then it goes on for a while.
    fn shut_down(&mut self) {
        self.api.apply(&endpoints(&[]));
        // Everybody who watches has heard of it before it ends.
        self.serves("web-1");
        self.serves("web-0");
        self.lose();
    }

    /// The API server is gone at once.
    fn lose(&mut self) {
        self.servers.clear();
    }

    /// Waits until a change of the cluster is in the kernel: only this pod serves `cart`.
    #[track_caller]
    fn serves(&self, web: &str) {
        let number = usize::from(web == "web-1");
        self.api.apply(&objects::slice("cart", &self.stage.addresses()[number..=number]));
        // The longest backoff is half a minute.
        let served = wait_ok(Duration::from_secs(60), &format!("{web} to serve"), || {
            let who = self.stage.ask(CART).map_err(|error| error.to_string())?;
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
        let path = self.stage.node.temp().join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        AgentOptions { kubeconfig: Some(path), place: Place::Within, ..options(&[]) }
    }

    fn agent(&self) -> Agent {
        self.stage.node.agent(&self.options()).unwrap()
    }

    /// A pod reaches the API server at its service address.
    #[track_caller]
    fn pods_reach_it(&self) {
        eventually("a pod to reach the API server", || {
            let reply = self.stage.client.run(|| list_nodes(at(SERVICE)));
            let reply = reply.map_err(|error| error.to_string())?;
            holds(reply.starts_with("HTTP/1.1 200 "), reply)
        });
    }

    /// Where the kernel leads a pod that dials the API server.
    #[track_caller]
    fn leads_to(&self) -> Vec<String> {
        let listing = self.stage.json(&["backends", "default/kubernetes"]);
        let services = listing["services"].as_array().unwrap();
        let backends = services.iter().flat_map(|service| service["backends"].as_array().unwrap());
        backends
            .map(|backend| format!("{}:{}", backend["address"].as_str().unwrap(), backend["port"]))
            .collect()
    }
}

/// The first line of what the API server answers there. It does not close connections.
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
    let mut cluster = Cluster::new(kube_proxy);
    let agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.shut_down();
    assert_eq!(cluster.leads_to(), [SERVER], "what was known stays");
    let told = "Service default/kubernetes: no endpoint is listed, as when the only API server shuts \
                down; the last ones stay until new ones are listed: 192.0.2.10:6443";
    eventually("it to be told", || {
        let problems = cluster.stage.wrong("problems");
        holds(problems.iter().any(|problem| problem == told), format!("{problems:#?}"))
    });
    assert_logged_once(&agent, told);
    cluster.start(SERVER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    cluster.stage.eventually_no_problems();
}

#[test]
fn the_only_server_restarts_in_order_behind_kube_proxy() {
    after_a_graceful_restart(KubeProxy::Present);
}

#[test]
fn the_only_server_restarts_in_order_without_kube_proxy() {
    after_a_graceful_restart(KubeProxy::Absent);
}

fn after_all_addresses_changed(kube_proxy: KubeProxy) {
    let mut cluster = Cluster::new(kube_proxy);
    let _agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.lose();
    cluster.start(OTHER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    assert_eq!(cluster.leads_to(), [OTHER]);
}

#[test]
fn all_addresses_change_at_once_behind_kube_proxy() {
    after_all_addresses_changed(KubeProxy::Present);
}

#[test]
fn all_addresses_change_at_once_without_kube_proxy() {
    after_all_addresses_changed(KubeProxy::Absent);
}

fn with_an_adopted_dead_address(kube_proxy: KubeProxy) {
    let mut cluster = Cluster::new(kube_proxy);
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
fn an_adopted_dead_address_is_no_obstacle_behind_kube_proxy() {
    with_an_adopted_dead_address(KubeProxy::Present);
}

#[test]
fn an_adopted_dead_address_is_no_obstacle_without_kube_proxy() {
    with_an_adopted_dead_address(KubeProxy::Absent);
}

fn with_an_adopted_refusal(kube_proxy: KubeProxy) {
    let mut cluster = Cluster::new(kube_proxy);
    // There was never an endpoint that could be kept.
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
fn an_adopted_refusal_is_replaced_behind_kube_proxy() {
    with_an_adopted_refusal(KubeProxy::Present);
}

#[test]
fn an_adopted_refusal_is_replaced_without_kube_proxy() {
    with_an_adopted_refusal(KubeProxy::Absent);
}

#[test]
fn an_agent_that_restarts_meanwhile_keeps_the_last_endpoints() {
    let mut cluster = Cluster::new(KubeProxy::Present);
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
fn the_last_known_endpoints_are_dialled_where_nobody_serves_the_service_address() {
    let mut cluster = Cluster::new(KubeProxy::Absent);
    let mut agent = cluster.agent();
    agent.kill().unwrap();
    // Nobody is there.
    let at_service = cluster.options_at(SERVICE);
    let _next = cluster.stage.node.agent(&at_service).unwrap();
    cluster.shut_down();
    cluster.start(SERVER);
    cluster.serves("web-1");
}

#[test]
fn an_agent_says_how_it_stands_without_its_server() {
    let mut cluster = Cluster::new(KubeProxy::Present);
    let mut agent = cluster.agent();
    let row = |name: &str| {
        let status = String::from_utf8(cluster_status(&cluster.stage)).unwrap();
        let row = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        row.split_whitespace().skip(1).collect::<Vec<&str>>().join(" ")
    };
    assert_eq!(row("Ready"), "yes");
    assert_eq!(agent.get("/readyz").unwrap().body, "ok\n");
    cluster.servers.clear();
    // The node is served from what is known: that is no reason to be unready, but one to say so.
    eventually("the status to tell that its state is old", || {
        let ready = row("Ready");
        holds(ready.starts_with("yes, but with the state of "), ready)
    });
    let ready = agent.get("/readyz").unwrap();
    assert_eq!(ready.status, 200);
    assert!(ready.body.starts_with("ok, from the state of "), "{}", ready.body);
    assert_eq!(agent.get("/healthz").unwrap().status, 200);

    // One that has not reached its server since its start does not know what it is to serve.
    agent.kill().unwrap();
    let starting = AgentOptions { until_ready: false, ..cluster.options() };
    let next = cluster.stage.node.agent(&starting).unwrap();
    let hint = "deploy/overlays/without-kube-proxy";
    let said = eventually("/readyz to say why", || {
        let reply = next.get("/readyz").map_err(|error| format!("{error:#}"))?;
        let told = reply.status == 503 && reply.body.contains("watch of ");
        holds(told, format!("{} {}", reply.status, reply.body)).map(|()| reply.body)
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
    cluster.stage.assert_served(CART);
}

fn cluster_status(stage: &Stage) -> Vec<u8> {
    stage.look(&["status"]).stdout
}

#[test]
fn a_control_plane_machine_that_loses_power_is_noticed() {
    let cluster = Cluster::new(KubeProxy::Absent);
    let machine = cluster.stage.node.pod("machine", &[ip("10.244.7.1")]).unwrap();
    let listener = machine.run(|| TcpListener::bind("10.244.7.1:6443")).unwrap();
    let _lost = Server::start(&cluster.api, listener).unwrap();
    cluster.api.apply(&endpoints(&["10.244.7.1:6443", SERVER]));
    let agent = cluster.stage.node.agent(&cluster.options_at("10.244.7.1:6443")).unwrap();
    cluster.serves("web-1");
    // Not a packet comes from there any more: no FIN, no RST.
    let route = ["route", "replace", "blackhole", "192.0.2.10/32"];
    let output = machine.output(Command::new("ip").args(route)).unwrap();
    assert!(output.status.success(), "ip {}: {}", route.join(" "), error_of(&output));
    cluster.serves("web-0");
    drop(agent);
}
