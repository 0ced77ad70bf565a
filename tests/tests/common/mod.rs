//! What the end-to-end tests of the agent share: a node with servers and a client, and questions
//! to it that fail with what was seen.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

pub mod bpf;
pub mod damage;
pub mod foreign;
pub mod hammer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use sockline_testbed::{
    Agent, AgentOptions, KernelFeatures, Node, Ns, Pod, TcpServer, UdpClient, UdpServer, objects,
    sockline_binary, wait_ok,
};

/// Far beyond what anything here takes; only a failing test waits this long.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until `probe` is content; fails with its last reason.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    match wait_ok(DEADLINE, what, probe) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

/// `Ok` if it holds, else the reason.
pub fn holds(condition: bool, seen: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen.to_string()) }
}

/// A pod that answers TCP at 8080 and UDP at 8053 with its name.
pub struct Web {
    pub pod: Pod,
    pub tcp: TcpServer,
    pub udp: UdpServer,
}

/// A node with web pods `web-0` … at 10.244.1.1 … and a client pod. No agent yet.
pub struct Stage {
    pub client: Pod,
    pub webs: Vec<Web>,
    pub node: Node,
}

impl Stage {
    pub fn new(webs: usize) -> Self {
        let node = Node::new().unwrap();
        let client = node.pod("client", &[ip("10.244.9.9")]).unwrap();
        // A service address, or a node's that is nowhere, which is not translated fails at once. The node
        // would say so as well, with ICMP errors, but only so many of them in a second.
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
        let stage = Self { client, webs, node };
        stage.put("node.yaml", &[objects::node()]);
        stage
    }

    /// The addresses of all web pods.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.webs.iter().map(|web| web.pod.addresses()[0]).collect()
    }

    /// Writes a manifest.
    pub fn put(&self, file: &str, objects: &[Value]) {
        self.put_text(file, &objects::yaml(objects));
    }

    pub fn put_text(&self, file: &str, text: &str) {
        objects::put(&self.node.manifests(), file, text).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.node.manifests().join(file)).unwrap();
    }

    /// Writes `NAME.yaml` with a service and its slice: all web pods.
    pub fn put_service(&self, name: &str, cluster_ip: &str) {
        let slice = objects::slice(name, &self.addresses());
        self.put(&format!("{name}.yaml"), &[objects::service(name, cluster_ip), slice]);
    }

    pub fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    pub fn agent_with(&self, args: &[&str]) -> Agent {
        self.node.agent(&options(args)).unwrap()
    }

    /// Who answers a connect to port 80 of a service.
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

    /// Fails unless a connect goes out as if there were no Sockline: to nowhere.
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

    /// Unconnected UDP sockets of the client that have talked to a service, and who answered.
    pub fn udp_talkers(&self, cluster_ip: &str, count: usize) -> Vec<(UdpClient, String)> {
        (0..count)
            .map(|_| {
                let client = self.client.run(|| UdpClient::unconnected(ip(cluster_ip)).unwrap());
                let who = self.ask_udp(&client, cluster_ip);
                (client, who)
            })
            .collect()
    }

    /// Who answers a datagram to port 53 of a service.
    pub fn ask_udp(&self, client: &UdpClient, cluster_ip: &str) -> String {
        let address = SocketAddr::new(ip(cluster_ip), 53);
        self.client.run(|| client.ask_to(address, "?").unwrap()).who
    }

    /// Runs any `sockline` command outside of the node's cgroup, as the agent would be.
    pub fn sockline(&self, args: &[&str]) -> Output {
        let mut command = Command::new(sockline_binary().unwrap());
        command.args(args).stdin(Stdio::null());
        self.node.outside().output(&mut command).unwrap()
    }

    /// A `sockline` command that reads this node.
    pub fn look(&self, args: &[&str]) -> Output {
        let bpffs = self.node.bpffs().to_str().unwrap();
        let socket = self.node.temp().join("admin.sock");
        let (command, rest) = args.split_first().unwrap();
        let mut all =
            vec![*command, "--bpf-root", bpffs, "--admin-socket", socket.to_str().unwrap()];
        all.extend(rest);
        self.sockline(&all)
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

    /// The agent's lists of what is wrong: `problems` or `failures`.
    #[track_caller]
    pub fn wrong(&self, list: &str) -> Vec<String> {
        strings(&self.status()["agent"][list])
    }

    /// Waits until the status has exactly these problems.
    #[track_caller]
    pub fn eventually_problems(&self, expected: &[&str]) {
        eventually(&format!("the problems {expected:?}"), || {
            let seen = self.wrong("problems");
            holds(seen == expected, format!("{seen:#?}"))
        });
    }

    pub fn eventually_no_problems(&self) {
        self.eventually_problems(&[]);
    }

    /// The backends that the kernel spreads a service's port over.
    #[track_caller]
    pub fn backends(&self, service: &str, port: &str) -> Vec<String> {
        let listing = self.json(&["backends", &format!("{}/{service}", objects::NAMESPACE)]);
        let services = listing["services"].as_array().unwrap();
        let found = services.iter().find(|entry| entry["port_name"] == port).unwrap();
        let backends = found["backends"].as_array().unwrap();
        backends.iter().map(|backend| backend["address"].as_str().unwrap().to_owned()).collect()
    }

    /// The services in the kernel as `namespace/name`, each once.
    #[track_caller]
    pub fn services(&self) -> Vec<String> {
        let listing = self.json(&["services"]);
        let frontends = listing["frontends"].as_array().unwrap();
        let names = frontends.iter().map(|frontend| frontend["service"].as_str().unwrap());
        let names: BTreeSet<&str> = names.collect();
        names.into_iter().map(ToOwned::to_owned).collect()
    }
}

/// Whether a connect from a namespace of the client goes out as if there were no Sockline.
pub fn untouched(client: &Ns, cluster_ip: &str) -> Result<(), String> {
    match client.tcp_ask(SocketAddr::new(ip(cluster_ip), 80)) {
        Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => Ok(()),
        seen => Err(format!("a connect to {cluster_ip}: {seen:?}")),
    }
}

/// What the client's route says of service addresses.
pub const EHOSTUNREACH: i32 = 113;

/// An agent that looks for damage every second.
pub const REPAIRS: [&str; 2] = ["--reconcile-interval", "1s"];

pub fn options(args: &[&str]) -> AgentOptions {
    AgentOptions {
        args: args.iter().map(ToString::to_string).collect(),
        // Loading the programs takes a while on a machine that is busy with a build.
        ready_within: Duration::from_secs(60),
        ..Default::default()
    }
}

pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list but {list}"));
    list.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
}

/// What a command wrote to standard error.
pub fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The value of a series in Prometheus text; `None` if it is not there.
pub fn series(metrics: &str, name: &str) -> Option<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// The series of connections that were translated to a service.
pub fn translated(service: &str, protocol: &str) -> String {
    let namespace = objects::NAMESPACE;
    format!(
        "sockline_connections_translated_total{{namespace=\"{namespace}\",service=\"{service}\",\
         protocol=\"{protocol}\"}}"
    )
}

/// Log lines that contain a text.
pub fn lines_with(log: &str, text: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains(text)).map(ToOwned::to_owned).collect()
}

/// Fails unless a problem was logged as exactly one warning.
#[track_caller]
pub fn assert_logged_once(agent: &Agent, problem: &str) {
    let log = agent.log();
    let lines = lines_with(&log, problem);
    assert_eq!(lines.len(), 1, "{problem:?} is not in the log exactly once: {log}");
    assert!(lines[0].contains("WARN"), "{}", lines[0]);
}

/// Fixtures recorded from a real cluster.
pub fn fixtures(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
