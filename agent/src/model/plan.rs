//! The plan: every service address of this node, and the action for a connect to it.

use std::{net::IpAddr, sync::Arc, time::Instant};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::object::{Family, ObjectName, Protocol};

/// All frontends of one node, sorted: the output of the planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub node: Arc<str>,
    pub frontends: Vec<Arc<Frontend>>,
}

/// The part of a plan that belongs to one service; without frontends if the service is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    pub service: ObjectName,
    pub frontends: Vec<Arc<Frontend>>,
    /// The known causes of the change.
    pub causes: Vec<Cause>,
}

/// A cause of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// When the source reported it.
    pub arrived: Instant,
    /// When it happened in the cluster, if the object has that time.
    pub triggered: Option<Timestamp>,
}

/// One service address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// `sessionAffinity: ClientIP` and its timeout.
    #[serde(rename = "affinityTimeoutSeconds", skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    pub balance: Balance,
    /// For a NodePort with only the endpoints of another node, the number of that node
    /// ([`super::other_nodes::number`]); otherwise 0.
    #[serde(skip)]
    pub of_node: u16,
    /// The backends of a connect, sorted by address and port, without duplicates; empty unless `action` is
    /// `Forward`.
    pub backends: Arc<[Backend]>,
}

/// The address that clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// All addresses of this node (a NodePort); one entry for each family. Printed as `*`.
    Node,
    /// All addresses of the other nodes without a frontend of their own; one entry for each family.
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
    /// Leave the call unchanged, so that kube-proxy serves it.
    #[serde(rename = "bypass")]
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
    /// Bypass: `loadBalancerSourceRanges` needs the source address, which no socket has yet.
    SourceRanges,
    /// Bypass: the protocol (SCTP) is not handled.
    Protocol,
    /// Bypass: the service is annotated `sockline.dev/redirect: disabled`.
    RedirectDisabled,
    /// Bypass: the service has more backends than [`super::limits::BACKENDS`].
    TooLarge,
}

/// How a connect chooses among the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// At random, by weight.
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
