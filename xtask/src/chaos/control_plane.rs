//! The API server on one of two machines, and its service `default/kubernetes`.
//!
//! The agent connects to the service's address, as in a pod. In place of kube-proxy, the node has a route for that
//! address to the API server's machine, which has the address as well.

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
    /// The machine that has, or will have, the API server.
    current: usize,
    /// At the machine's address and the service's; empty while the API server is down.
    servers: Vec<Server>,
}

impl ControlPlane {
    /// Starts the API server.
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
        this.start_server()?;
        this.publish_endpoint();
        Ok(this)
    }

    pub(super) const fn machines(&self) -> &[Pod; 2] {
        &self.machines
    }

    /// Writes a kubeconfig with the service's address.
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

    /// The API server publishes itself as the only endpoint, as it does after its start.
    pub(super) fn publish_endpoint(&self) {
        self.apply_endpoints(&[self.current]);
    }

    /// The API server removes its endpoint, as it does first when it shuts down.
    pub(super) fn remove_endpoint(&self) {
        self.apply_endpoints(&[]);
    }

    /// Stops the API server, with all connections.
    pub(super) fn stop(&mut self) {
        self.servers.clear();
    }

    /// Starts the API server on the current machine.
    pub(super) fn start_server(&mut self) -> Result<()> {
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

    /// The next start is on the other machine.
    pub(super) const fn change_machine(&mut self) {
        self.current = 1 - self.current;
    }

    /// The machine loses power: it answers nothing, and no connection ends. The next start is on the other machine.
    pub(super) fn lose_power(&mut self) -> Result<PoweredOff> {
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
        Ok(PoweredOff { machine: lost, servers, back })
    }

    /// The machine is back, without its connections.
    pub(super) fn restore_power(&self, powered_off: PoweredOff) -> Result<()> {
        drop(powered_off.servers);
        for line in &powered_off.back {
            ip(&self.machines[powered_off.machine], line)?;
        }
        Ok(())
    }

    /// Waits until a pod reaches the API server at the service's address.
    pub(super) fn reached_from(&self, pod: &Ns, within: Duration) -> Result<()> {
        let address = SocketAddr::from((ADDRESS, PORT));
        wait_ok(within, "a pod to reach the API server at its service address", || {
            let line = pod.run(|| request(address))?;
            if line.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other(line)) }
        })
    }
}

/// A machine without power.
pub(super) struct PoweredOff {
    machine: usize,
    servers: Vec<Server>,
    /// Restores its routes.
    back: Vec<String>,
}

fn request(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET /api/v1/nodes HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
