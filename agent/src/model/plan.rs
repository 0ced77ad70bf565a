//! The plan: every service address of this node and what a connect to it does.

use std::{net::IpAddr, sync::Arc, time::Instant};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::object::{Family, ObjectName, Protocol};

/// What one node shall do with every service address, sorted: the planner's whole output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub node: Arc<str>,
    pub frontends: Vec<Arc<Frontend>>,
}

/// The part of a plan that belongs to one service; without frontends if it has none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    pub service: ObjectName,
    pub frontends: Vec<Arc<Frontend>>,
    /// What it was changed by, as far as known.
    pub causes: Vec<Cause>,
}

/// The reason of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// When the source reported it.
    pub arrived: Instant,
    /// When it happened in the cluster, if the object says so.
    pub triggered: Option<Timestamp>,
}

/// One service address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frontend {
    pub service: ObjectName,
    /// Empty for an unnamed port.
    pub port_name: Arc<str>,
    pub address: FrontendAddress,
    pub family: Family,
    pub port: u16,
    pub protocol: Protocol,
    #[serde(rename = "type")]
    pub kind: FrontendKind,
    pub action: Action,
    /// Why `action` is not forward.
    pub reason: Option<Reason>,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub affinity_seconds: Option<u32>,
    pub balance: Balance,
    /// Of a NodePort with the endpoints of one other node alone, what stands for that node
    /// ([`super::other_nodes::number`]); else 0.
    #[serde(skip)]
    pub of_node: u16,
    /// What a connect draws from, sorted by address and port, no duplicates; empty unless `action`
    /// is forward.
    pub backends: Arc<[Backend]>,
}

/// The address clients dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// Every address of the node itself (a NodePort); one entry per family. Printed as `*`.
    Node,
    /// Every address of the other nodes that has no frontend of its own; one entry per family.
    OtherNodes,
    Ip(IpAddr),
}

impl std::fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.write_str("*"),
            Self::OtherNodes => f.write_str("other-nodes"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Serialize for FrontendAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where the address comes from in the Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum FrontendKind {
    ClusterIP,
    ExternalIP,
    LoadBalancer,
    NodePort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Replace the address with one of the backends.
    Forward,
    /// Fail the call with ECONNREFUSED.
    Refuse,
    /// Leave the call alone, for kube-proxy to serve.
    Pass,
}

/// Why a frontend does not forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Refuse: the service has no usable endpoint anywhere.
    NoEndpoints,
    /// Refuse: the traffic policy is Local and no usable endpoint is on this node.
    NoLocalEndpoints,
    /// Pass: `loadBalancerSourceRanges` needs the source address, which no socket has yet.
    SourceRanges,
    /// Pass: the protocol (SCTP) is not handled.
    Protocol,
    /// Pass: the service is annotated `sockline.dev/redirect: disabled`.
    RedirectDisabled,
    /// Pass: the service has more backends than [`super::limits::BACKENDS`].
    TooLarge,
}

/// How a connect chooses among the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// A draw by weight.
    Random,
}

/// One endpoint of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// Relative share, at least 1.
    pub weight: u16,
}

/// The order of frontends in a plan.
#[must_use]
pub fn order(a: &Frontend, b: &Frontend) -> std::cmp::Ordering {
    let of = |f: &Frontend| (f.family, f.address, f.port, f.protocol);
    a.service
        .cmp(&b.service)
        .then_with(|| a.port_name.cmp(&b.port_name))
        .then_with(|| of(a).cmp(&of(b)))
}
