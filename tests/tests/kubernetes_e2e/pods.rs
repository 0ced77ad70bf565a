//! Pods that serve: what they listen on, and what Kubernetes thinks of them.

use std::net::IpAddr;

use sockline_testbed::{Ns, Pod, TcpServer, UdpServer};

/// A server pod as a test asks for it, and once it runs.
pub struct Server {
    pub name: String,
    /// The label `app`, which services select by.
    pub app: String,
    pub node: usize,
    pub host_network: bool,
    pub ready: bool,
    /// It has a deletion timestamp, and goes on serving.
    pub terminating: bool,
    /// Its phase is Failed, as after an eviction.
    pub failed: bool,
    ports: Vec<ContainerPort>,
    running: Option<Running>,
}

struct ContainerPort {
    name: String,
    protocol: &'static str,
    number: u16,
}

/// Fields are dropped in this order: the servers before their pod.
struct Running {
    tcp: Vec<TcpServer>,
    udp: Vec<UdpServer>,
    pod: Option<Pod>,
    addresses: Vec<IpAddr>,
}

impl Server {
    /// A pod on the first node that listens on nothing yet.
    pub fn new(name: &str, app: &str) -> Self {
        Self {
            name: name.to_owned(),
            app: app.to_owned(),
            node: 0,
            host_network: false,
            ready: true,
            terminating: false,
            failed: false,
            ports: Vec::new(),
            running: None,
        }
    }

    pub fn on(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    pub fn unready(mut self) -> Self {
        self.ready = false;
        self
    }

    pub fn tcp(self, number: u16) -> Self {
        self.named("tcp", "TCP", number)
    }

    pub fn udp(self, number: u16) -> Self {
        self.named("udp", "UDP", number)
    }

    /// A container port that services can name.
    pub fn named(mut self, name: &str, protocol: &'static str, number: u16) -> Self {
        self.ports.push(ContainerPort { name: name.to_owned(), protocol, number });
        self
    }

    /// Starts the servers, in the pod, or on the node if there is none.
    pub fn start(&mut self, node: &Ns, pod: Option<Pod>, addresses: Vec<IpAddr>) {
        let ns: &Ns = pod.as_ref().map_or(node, |pod| pod);
        let of = |protocol: &str| {
            let ports = self.ports.iter().filter(move |port| port.protocol == protocol);
            ports.map(|port| port.number).collect::<Vec<_>>()
        };
        let tcp = of("TCP").into_iter().map(|port| ns.tcp_server(port).unwrap()).collect();
        let udp = of("UDP").into_iter().map(|port| ns.udp_server(port).unwrap()).collect();
        self.running = Some(Running { tcp, udp, pod, addresses });
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.running().addresses
    }

    /// The pod's network namespace.
    pub fn ns(&self) -> &Ns {
        self.running().pod.as_ref().expect("the pod has a network namespace of its own")
    }

    /// Who came over TCP, in order.
    pub fn tcp_peers(&self) -> Vec<IpAddr> {
        let servers = self.running().tcp.iter();
        servers.flat_map(TcpServer::peers).map(|peer| peer.ip()).collect()
    }

    /// How many datagrams came.
    pub fn udp_hits(&self) -> usize {
        self.running().udp.iter().map(UdpServer::hits).sum()
    }

    pub fn container_port(&self, name: &str, protocol: &str) -> Option<u16> {
        let of = |port: &&ContainerPort| port.name == name && port.protocol == protocol;
        self.ports.iter().find(of).map(|port| port.number)
    }

    pub fn node_name(&self) -> String {
        format!("node-{}", self.node)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the pod has been started")
    }
}
