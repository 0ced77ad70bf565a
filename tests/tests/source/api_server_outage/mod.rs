//! An agent reconnects to its API server, whatever happened to the server and to `default/kubernetes`
//! meanwhile. It runs within the node's cgroup, as on a real node.

mod reconnecting;
mod reports;

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use serde_json::{Value, json};
use sockline_testbed::{
    ANSWER_TIMEOUT, Agent, AgentCgroup, AgentOptions,
    api::{Api, Server},
    at, objects, patience,
};

use crate::common::{WebNode, error_of, eventually, holds, options};

/// `default/kubernetes`, as in the variable `KUBERNETES_SERVICE_HOST` of pods.
const SERVICE: &str = "10.96.0.1:443";
const CART: &str = "10.96.0.2";

/// The control plane's machine, and another machine.
const SERVER: &str = "192.0.2.10:6443";
const OTHER: &str = "192.0.2.11:6443";

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
        eventually(&format!("{web} to serve"), || {
            let who = self.node.ask(CART).map_err(|error| error.to_string())?;
            holds(who == web, who)
        });
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
        AgentOptions {
            kubeconfig: Some(path),
            cgroup_of_agent: AgentCgroup::InNode,
            ..options(&[])
        }
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
    stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT)))?;
    write!(stream, "GET /api/v1/nodes HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// A stable address of the API server.
const STABLE: &str = "192.0.2.100:6443";

fn kubernetes() -> Value {
    let ports = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
    objects::service_with("default", "kubernetes", "10.96.0.1", ports)
}

fn endpoints(servers: &[&str]) -> Value {
    let endpoints: Vec<Value> = servers
        .iter()
        .map(|server| json!({"addresses": [at(server).ip()], "conditions": {"ready": true}}))
        .collect();
    let mut slice = objects::endpoint_slice("default", "kubernetes", "IPv4");
    // kube-apiserver names its own without a suffix.
    slice["metadata"]["name"] = "kubernetes".into();
    slice["endpoints"] = endpoints.into();
    slice["ports"] = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
    slice
}
