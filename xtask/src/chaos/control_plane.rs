//! The API server, on one of two machines, and the way to it: `default/kubernetes`.
//!
//! The agent dials the service's address, as an agent in a pod does. What kube-proxy does for that address
//! beside Sockline is a route of the node to the machine with the API server, which has the address, too.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;
use sockline_testbed::{Endpoint, Node, Ns, Pod, Service, api::Server, wait_ok};

use super::{cluster::Cluster, iproute::ip};

/// `default/kubernetes`.
const NAME: &str = "kubernetes";
const ADDRESS: [u8; 4] = [10, 96, 0, 1];
const PORT: u16 = 443;
/// Where the API server listens on its machine.
const TARGET_PORT: u16 = 6443;

pub(super) struct ControlPlane {
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    machines: [Pod; 2],
    /// Where the API server is, or will be.
    current: usize,
    /// At the machine's address and the service's; none while it is away.
    servers: Vec<Server>,
}

impl ControlPlane {
    /// With a running API server.
    pub(super) fn start(node: &Arc<Node>, cluster: &Arc<Cluster>) -> Result<Self> {
        let machine = |name: &str, number: u8| -> Result<Pod> {
            let pod = node.pod(name, &[IpAddr::from([10, 244, 8, number])])?;
            ip(&pod, &format!("address add {}/32 dev lo", IpAddr::from(ADDRESS)))?;
            Ok(pod)
        };
        let machines = [machine("control-plane-0", 1)?, machine("control-plane-1", 2)?];
        let (node, cluster) = (Arc::clone(node), Arc::clone(cluster));
        let mut this = Self { node, cluster, machines, current: 0, servers: Vec::new() };
        this.cluster.api.apply(&this.service(&[]).objects()[0]);
        this.come_up()?;
        this.tell();
        Ok(this)
    }

    pub(super) const fn machines(&self) -> &[Pod; 2] {
        &self.machines
    }

    /// A kubeconfig that names the service's address.
    pub(super) fn kubeconfig(&self) -> Result<PathBuf> {
        let server = format!("http://{}", SocketAddr::from((ADDRESS, PORT)));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = self.node.temp().join("kubeconfig");
        std::fs::write(&path, config.to_string()).context("writing the kubeconfig")?;
        Ok(path)
    }

    fn service(&self, machines: &[usize]) -> Service {
        let endpoints = machines.iter().map(|&one| Endpoint::at(self.machines[one].addresses()));
        let address = IpAddr::from(ADDRESS).to_string();
        Service::new(NAME).ip(&address).tcp(PORT).to(TARGET_PORT).endpoints(endpoints)
    }

    fn apply_endpoints(&self, machines: &[usize]) {
        for slice in &self.service(machines).objects()[1..] {
            self.cluster.api.apply(slice);
        }
    }

    /// The API server lists itself as the only endpoint, as it does when it is up.
    pub(super) fn tell(&self) {
        self.apply_endpoints(&[self.current]);
    }

    /// The API server takes its endpoint away, as it does when it begins to shut down.
    pub(super) fn withdraw(&self) {
        self.apply_endpoints(&[]);
    }

    /// Ends with all connections.
    pub(super) fn end(&mut self) {
        self.servers.clear();
    }

    /// Starts on the machine where it was.
    pub(super) fn come_up(&mut self) -> Result<()> {
        let machine = &self.machines[self.current];
        let own = machine.addresses()[0];
        ip(self.node.outside(), &format!("route replace {}/32 via {own}", IpAddr::from(ADDRESS)))?;
        for address in [(own, TARGET_PORT).into(), SocketAddr::from((ADDRESS, PORT))] {
            let listener = machine.run(|| TcpListener::bind(address));
            let listener = listener.with_context(|| format!("listening at {address}"))?;
            self.servers.push(Server::start(&self.cluster.api, listener)?);
        }
        Ok(())
    }

    /// From now on it is the other machine's.
    pub(super) const fn change_machine(&mut self) {
        self.current = 1 - self.current;
    }

    /// The machine loses its power: nothing is answered any more, and no connection is ended. Another
    /// one takes over.
    pub(super) fn lose_power(&mut self) -> Result<Dark> {
        let lost = self.current;
        let machine = &self.machines[lost];
        let device = "eth0";
        let node = self.node.addresses().iter().find(|address| address.is_ipv4());
        let node = *node.context("the node has no IPv4 address")?;
        ip(machine, &format!("route replace blackhole {node}/32"))?;
        ip(machine, "route replace blackhole default")?;
        let back = vec![
            format!("route replace {node}/32 dev {device}"),
            format!("route replace default via {node} dev {device}"),
        ];
        let servers = std::mem::take(&mut self.servers);
        self.change_machine();
        Ok(Dark { machine: lost, servers, back })
    }

    /// The machine is back, and knows of nothing.
    pub(super) fn restore_power(&self, dark: Dark) -> Result<()> {
        drop(dark.servers);
        for line in &dark.back {
            ip(&self.machines[dark.machine], line)?;
        }
        Ok(())
    }

    /// Waits until a pod reaches it at the service's address.
    pub(super) fn reached_from(&self, pod: &Ns, within: Duration) -> Result<()> {
        let address = SocketAddr::from((ADDRESS, PORT));
        wait_ok(within, "a pod to reach the API server at its service address", || {
            let line = pod.run(|| ask(address))?;
            if line.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other(line)) }
        })
    }
}

/// A machine without power.
pub(super) struct Dark {
    machine: usize,
    servers: Vec<Server>,
    /// How its routes were.
    back: Vec<String>,
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET /api/v1/nodes HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
