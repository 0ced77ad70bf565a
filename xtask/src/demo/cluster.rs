//! The cluster: each pod of the shop as a network namespace with its servers, and a client.

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use sockline_testbed::{
    Agent, AgentOptions, Capture, Node, Pod, Protocol, Reply, TcpServer, UdpClient, UdpServer,
    tcp_ask,
};

use super::{
    interrupt::Interrupt,
    manifests::Manifests,
    shop::{Frontend, Shop},
};
use crate::{repo, term};

/// An address that the shop does not use.
const CLIENT: &str = "10.244.1.200";

/// The recorded shop.
pub(super) fn fixtures() -> PathBuf {
    repo::root().join("tests/fixtures/boutique")
}

/// Fields are dropped in this order: the agent before its node.
pub(crate) struct Cluster {
    pub(crate) agent: Option<Agent>,
    pub(crate) shop: Shop,
    pub(crate) manifests: Manifests,
    /// Counts the packets at the client's device, from before the first connection.
    pub(super) client_capture: Capture,
    /// Counts the packets at all devices of the node.
    pub(super) node_capture: Capture,
    pub(crate) client: Pod,
    pub(super) pods: BTreeMap<String, ShopPod>,
    pub(crate) node: Node,
}

pub(super) struct ShopPod {
    tcp: BTreeMap<u16, TcpServer>,
    udp: BTreeMap<u16, UdpServer>,
    pod: Pod,
}

impl ShopPod {
    /// The addresses of the clients that have connected to a port.
    pub(super) fn peers(&self, protocol: Protocol, port: u16) -> Vec<std::net::SocketAddr> {
        match protocol {
            Protocol::Tcp => self.tcp.get(&port).map(TcpServer::peers),
            Protocol::Udp => self.udp.get(&port).map(UdpServer::peers),
        }
        .unwrap_or_default()
    }
}

impl Cluster {
    pub(crate) fn build(interrupt: &Interrupt) -> Result<Self> {
        let start = Instant::now();
        let node = Node::new()?;
        let manifests =
            Manifests::copy(&fixtures(), node.manifests(), node.temp().join("draft.yaml"))?;
        let shop = Shop::read(&manifests)?;
        term::doing("pods", &format!("{} network namespaces", shop.pods.len() + 1));
        let mut pods = BTreeMap::new();
        for spec in &shop.pods {
            interrupt.check()?;
            let pod = node.pod(&spec.name, &[spec.address])?;
            let mut shop_pod = ShopPod { tcp: BTreeMap::new(), udp: BTreeMap::new(), pod };
            for (protocol, port) in &spec.ports {
                let serve = || format!("serving {protocol} port {port} in {}", spec.name);
                match protocol {
                    Protocol::Tcp => {
                        let server = shop_pod.pod.tcp_server(*port).with_context(serve)?;
                        shop_pod.tcp.insert(*port, server);
                    }
                    Protocol::Udp => {
                        let server = shop_pod.pod.udp_server(*port).with_context(serve)?;
                        shop_pod.udp.insert(*port, server);
                    }
                }
            }
            pods.insert(spec.name.clone(), shop_pod);
        }
        let address: IpAddr = CLIENT.parse().expect("the constant above is an address");
        let client = node.pod("loadgenerator", &[address])?;
        let client_capture = client.capture().context("capturing in the client's namespace")?;
        let node_capture = node.outside().capture().context("capturing on the node")?;
        term::ok(
            "pods",
            &format!(
                "{} with servers, 1 client, in {}",
                pods.len(),
                term::seconds(start.elapsed())
            ),
        );
        Ok(Self { agent: None, shop, manifests, client_capture, node_capture, client, pods, node })
    }

    pub(crate) fn start_agent(&mut self, options: &AgentOptions) -> Result<()> {
        self.agent = Some(self.node.agent(options)?);
        Ok(())
    }

    /// Asks a frontend from a new socket of the client.
    pub(crate) fn ask(&self, frontend: &Frontend) -> io::Result<Reply> {
        self.client.run(|| ask(frontend))
    }

    /// Asks many times, each from a new socket. Counts the answers by pod.
    pub(super) fn ask_many(
        &self,
        frontend: &Frontend,
        times: u32,
    ) -> io::Result<BTreeMap<String, u64>> {
        self.client.run(|| {
            let mut answers = BTreeMap::new();
            for _ in 0..times {
                *answers.entry(ask(frontend)?.who).or_default() += 1;
            }
            Ok(answers)
        })
    }
}

/// Asks for the name of the pod, with the frontend's protocol. A UDP socket is connected, so that it has a peer.
fn ask(frontend: &Frontend) -> io::Result<Reply> {
    match frontend.protocol {
        Protocol::Tcp => tcp_ask(frontend.address),
        Protocol::Udp => {
            let client = UdpClient::connected(frontend.address)?;
            let reply = client.ask("who")?;
            Ok(Reply {
                who: reply.who,
                peer: client.socket().peer_addr()?,
                local: client.socket().local_addr()?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr};

    use super::*;

    #[test]
    fn each_pod_of_the_shop_answers_on_each_of_its_ports() {
        let cluster = Cluster::build(&Interrupt::never()).unwrap();
        assert_eq!((cluster.shop.frontends.len(), cluster.shop.pods.len()), (16, 24));
        for spec in &cluster.shop.pods {
            for (protocol, port) in &spec.ports {
                let direct = Frontend {
                    service: spec.name.clone(),
                    address: SocketAddr::new(spec.address, *port),
                    protocol: *protocol,
                    pods: BTreeSet::new(),
                };
                let reply = cluster.ask(&direct).unwrap();
                assert_eq!((&reply.who, reply.peer), (&spec.name, direct.address));
                assert_eq!(cluster.pods[&spec.name].peers(*protocol, *port), [reply.local]);
            }
        }
    }

    #[test]
    fn without_an_agent_the_capture_counts_packets_to_a_service() {
        let mut cluster = Cluster::build(&Interrupt::never()).unwrap();
        let frontend = cluster.shop.frontend("frontend", Protocol::Tcp).unwrap().clone();
        cluster.ask(&frontend).unwrap_err();
        assert!(cluster.client_capture.packets_of(frontend.address.ip()).unwrap() > 0);
    }
}
