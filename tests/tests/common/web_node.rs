//! A node with pods that serve, a client and a folder of manifests.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use sockline_testbed::{
    Agent, KernelFeatures, Node, Ns, Pod, TcpServer, UdpClient, UdpServer, objects, sockline_binary,
};

use super::{condition, error_of, eventually, holds, ip, options, service_of, texts};

/// A pod that answers TCP at 8080 and UDP at 8053 with its name.
pub struct Web {
    pub pod: Pod,
    pub tcp: TcpServer,
    pub udp: UdpServer,
}

/// The address of the service of [`WebNode::serving`].
pub const CART: &str = "10.96.0.1";

/// A node with web pods `web-0` … at 10.244.1.1 … and a client pod. It has no agent yet.
///
/// Dereferences to its [`Node`].
pub struct WebNode {
    pub client: Pod,
    pub webs: Vec<Web>,
    pub node: Node,
}

impl Deref for WebNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl WebNode {
    pub fn new(webs: usize) -> Self {
        let node = Node::new().unwrap();
        let client = node.pod("client", &[ip("10.244.9.9")]).unwrap();
        // A connect to a service address, or to that of a missing node, fails at once if it is not
        // translated. The node would answer with ICMP errors as well, but their rate is limited.
        for nowhere in ["10.96.0.0/12", "198.51.100.0/23"] {
            let route = ["route", "add", "unreachable", nowhere];
            let routed = client.output(Command::new("ip").args(route)).unwrap();
            assert!(routed.status.success(), "ip {}: {}", route.join(" "), error_of(&routed));
        }
        let webs = (0..webs)
            .map(|number| {
                let address = ip(&format!("10.244.1.{}", number + 1));
                let pod = node.pod(&format!("web-{number}"), &[address]).unwrap();
                let (tcp, udp) = (pod.tcp_server(8080).unwrap(), pod.udp_server(8053).unwrap());
                Web { pod, tcp, udp }
            })
            .collect();
        let this = Self { client, webs, node };
        this.put("node.yaml", &[objects::node()]);
        this
    }

    /// A node with the service `cart` at [`CART`], and a ready agent with these arguments.
    pub fn serving(webs: usize, args: &[&str]) -> (Self, Agent) {
        let node = Self::new(webs);
        node.put_service("cart", CART);
        let agent = node.start_agent_with(args);
        (node, agent)
    }

    /// The addresses of all web pods.
    pub fn web_addresses(&self) -> Vec<IpAddr> {
        self.webs.iter().map(|web| web.pod.addresses()[0]).collect()
    }

    /// Writes a manifest.
    pub fn put(&self, file: &str, objects: &[Value]) {
        self.put_text(file, &objects::file::yaml(objects));
    }

    pub fn put_text(&self, file: &str, text: &str) {
        objects::file::put(&self.node.manifests(), file, text).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.node.manifests().join(file)).unwrap();
    }

    /// Writes `NAME.yaml` with a service and its slice: all web pods.
    pub fn put_service(&self, name: &str, cluster_ip: &str) {
        let slice = objects::slice(name, &self.web_addresses());
        self.put(&format!("{name}.yaml"), &[objects::service(name, cluster_ip), slice]);
    }

    pub fn start_agent(&self) -> Agent {
        self.start_agent_with(&[])
    }

    pub fn start_agent_with(&self, args: &[&str]) -> Agent {
        self.node.agent(&options(args)).unwrap()
    }

    /// The pod that answers a connect to port 80 of a service.
    pub fn ask(&self, cluster_ip: &str) -> io::Result<String> {
        self.client.tcp_ask(SocketAddr::new(ip(cluster_ip), 80)).map(|reply| reply.who)
    }

    /// Fails unless a connect is answered by a web pod.
    #[track_caller]
    pub fn assert_served(&self, cluster_ip: &str) {
        if let Err(error) = self.ask(cluster_ip) {
            panic!("{cluster_ip} is not served: {error}");
        }
    }

    /// Fails if a connect is translated: without Sockline there is no route.
    #[track_caller]
    pub fn assert_untouched(&self, cluster_ip: &str) {
        if let Err(seen) = self.untouched(cluster_ip) {
            panic!("{seen}");
        }
    }

    pub fn untouched(&self, cluster_ip: &str) -> Result<(), String> {
        untouched(&self.client, cluster_ip)
    }

    #[track_caller]
    pub fn eventually_served(&self, cluster_ip: &str) -> String {
        eventually(&format!("{cluster_ip} to be served"), || self.ask(cluster_ip))
    }

    #[track_caller]
    pub fn eventually_untouched(&self, cluster_ip: &str) {
        eventually(&format!("{cluster_ip} to be unknown"), || self.untouched(cluster_ip));
    }

    #[track_caller]
    pub fn eventually_refused(&self, cluster_ip: &str) {
        let refusal = KernelFeatures::of_status(&self.status()).unwrap().refusal();
        eventually(&format!("{cluster_ip} to be refused"), || match self.ask(cluster_ip) {
            Err(error) if error.raw_os_error() == Some(refusal) => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
    }

    /// Answers of this many fresh connects, counted by pod.
    pub fn spread(&self, cluster_ip: &str, connects: usize) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..connects {
            *spread.entry(self.ask(cluster_ip).unwrap()).or_default() += 1;
        }
        spread
    }

    /// Unconnected UDP sockets of the client that have used a service, and the pods that answered.
    pub fn udp_talkers(&self, cluster_ip: &str, count: usize) -> Vec<(UdpClient, String)> {
        (0..count)
            .map(|_| {
                let client = self.client.run(|| UdpClient::unconnected(ip(cluster_ip)).unwrap());
                let who = self.ask_udp(&client, cluster_ip);
                (client, who)
            })
            .collect()
    }

    /// The pod that answers a datagram to port 53 of a service.
    pub fn ask_udp(&self, client: &UdpClient, cluster_ip: &str) -> String {
        let address = SocketAddr::new(ip(cluster_ip), 53);
        self.client.run(|| client.ask_to(address, "?").unwrap()).who
    }

    /// Runs any `sockline` command outside of the node's cgroup, as the agent would be.
    pub fn sockline(&self, args: &[&str]) -> Output {
        let mut command = Command::new(sockline_binary().unwrap());
        // Not each command has an option for it.
        command.env("SOCKLINE_ADMIN_SOCKET", self.node.temp().join("admin.sock"));
        command.args(args).stdin(Stdio::null());
        self.node.outside().output(&mut command).unwrap()
    }

    /// Runs a `sockline` command that reads this node.
    pub fn look(&self, args: &[&str]) -> Output {
        let bpffs = self.node.bpffs().to_str().unwrap();
        let (command, rest) = args.split_first().unwrap();
        self.sockline(&[&[*command, "--bpf-root", bpffs], rest].concat())
    }

    /// The JSON that a `sockline` command prints about this node.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.look(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "sockline {}: {}", args.join(" "), error_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// The status of a condition of the node: `True`, `False` or `Unknown`.
    #[track_caller]
    pub fn condition(&self, kind: &str) -> String {
        condition(&self.status(), kind)
    }

    /// The agent's lists of what is wrong: `invalidObjects`, `outOfSync` or `reconcileErrors`.
    #[track_caller]
    pub fn wrong(&self, list: &str) -> Vec<String> {
        texts(&self.status()["agent"][list])
    }

    /// Waits until the status has exactly these input errors.
    #[track_caller]
    pub fn eventually_input_errors(&self, expected: &[&str]) {
        eventually(&format!("the input errors {expected:?}"), || {
            let seen = self.wrong("invalidObjects");
            holds(seen == expected, format!("{seen:#?}"))
        });
    }

    pub fn eventually_no_input_errors(&self) {
        self.eventually_input_errors(&[]);
    }

    /// The backends that the kernel spreads a service's port over.
    #[track_caller]
    pub fn backends(&self, service: &str, port: &str) -> Vec<String> {
        let listing = self.json(&["backends", &format!("{}/{service}", objects::NAMESPACE)]);
        let services = listing["items"].as_array().unwrap();
        let found = services.iter().find(|entry| entry["portName"] == port).unwrap();
        let backends = found["backends"].as_array().unwrap();
        backends.iter().map(|backend| backend["address"].as_str().unwrap().to_owned()).collect()
    }

    /// The services in the kernel as `namespace/name`, each once.
    #[track_caller]
    pub fn services(&self) -> Vec<String> {
        let listing = self.json(&["services"]);
        let frontends = listing["items"].as_array().unwrap();
        let names: BTreeSet<String> = frontends.iter().map(service_of).collect();
        names.into_iter().collect()
    }
}

/// Whether a connect from a namespace of the client is not translated.
pub fn untouched(client: &Ns, cluster_ip: &str) -> Result<(), String> {
    match client.tcp_ask(SocketAddr::new(ip(cluster_ip), 80)) {
        Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => Ok(()),
        seen => Err(format!("a connect to {cluster_ip}: {seen:?}")),
    }
}

/// The error of the client's route to service addresses.
pub const EHOSTUNREACH: i32 = 113;
