//! What is drawn of a document: labels, and at most so many clients and backends of each service port. Pure.

use std::{net::SocketAddr, time::Duration};

use super::document::{ClientTraffic, ServiceTraffic, Traffic, TrafficMap};
use crate::{dataplane::ServiceKey, duration, escape::Escaped, status::PodRef, workloads::Client};

/// Clients or backends of a service port that are drawn; those with fewer connections are one.
const MAX_SHOWN: usize = 8;

#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub title: String,
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    pub traffic: Traffic,
    pub clients: Vec<Node>,
    pub backends: Vec<Node>,
}

/// A client or a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: String,
    /// What kind of workload it is; empty if there is nothing to say.
    pub kind: String,
    /// It stands for several.
    pub is_rest: bool,
    pub traffic: Traffic,
}

impl View {
    #[must_use]
    pub fn of(map: &TrafficMap) -> Self {
        let count = map.services.len();
        let ports = if count == 1 { "service port" } else { "service ports" };
        let interval = Duration::from_millis(rounded(map.interval_seconds * 1e3));
        Self {
            title: format!(
                "{}  {count} {ports} with traffic, rates over {}",
                Escaped(&map.node_name),
                duration::format(interval)
            ),
            services: map.services.iter().map(service).collect(),
        }
    }
}

impl Node {
    /// `shop/frontend (Deployment)`
    #[must_use]
    pub fn label(&self) -> String {
        if self.kind.is_empty() {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, self.kind)
        }
    }
}

/// From a second on, to a tenth of a second: what the reading itself takes says nothing.
fn rounded(milliseconds: f64) -> u64 {
    if milliseconds < 1e3 {
        milliseconds as u64
    } else {
        (milliseconds / 100.0).round() as u64 * 100
    }
}

fn service(of: &ServiceTraffic) -> Service {
    let key = ServiceKey {
        service: of.service.clone(),
        port_name: of.port_name.as_str().into(),
        protocol: of.protocol,
    };
    let backends = of.backends.iter().map(|backend| Node {
        name: SocketAddr::new(backend.address, backend.port).to_string(),
        kind: String::new(),
        is_rest: false,
        traffic: backend.traffic,
    });
    Service {
        name: Escaped(key).to_string(),
        traffic: of.traffic,
        clients: busiest(of.clients.iter().map(client).collect()),
        backends: busiest(backends.collect()),
    }
}

fn client(of: &ClientTraffic) -> Node {
    let pod = of.pod_uid.as_deref().map(|uid| PodRef::new(None, uid));
    let client = Client { pod, workload: of.workload.clone() };
    let (name, kind) = client.label();
    Node {
        name: Escaped(name).to_string(),
        kind: Escaped(kind).to_string(),
        is_rest: false,
        traffic: of.traffic,
    }
}

/// The busiest, in the order that they had, and one node for all others.
fn busiest(nodes: Vec<Node>) -> Vec<Node> {
    if nodes.len() <= MAX_SHOWN {
        return nodes;
    }
    let mut by_use: Vec<usize> = (0..nodes.len()).collect();
    by_use.sort_by(|&a, &b| {
        let [a, b] = [a, b].map(|place| &nodes[place].traffic);
        b.rates.opened.total_cmp(&a.rates.opened).then(b.opened.cmp(&a.opened))
    });
    // A node for the rest takes the place of one.
    let kept = &by_use[..MAX_SHOWN - 1];
    let mut rest = Node {
        name: format!("{} more", nodes.len() - kept.len()),
        kind: String::new(),
        is_rest: true,
        traffic: Traffic::default(),
    };
    let mut shown = Vec::new();
    for (place, node) in nodes.into_iter().enumerate() {
        if kept.contains(&place) {
            shown.push(node);
        } else {
            rest.traffic.add(&node.traffic);
        }
    }
    shown.push(rest);
    shown
}
