//! The plan: every service address of this node, and the action for a connect to it.

use std::{net::IpAddr, sync::Arc, time::Instant};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// The Service.
    pub service: ObjectName,
    /// The name of the Service's port; empty if it has none.
    pub port_name: Arc<str>,
    /// The address that clients connect to: an IP address; `*` for all addresses of this node (a NodePort); or
    /// `other-nodes` for all addresses of other nodes that have no entry of their own.
    #[schemars(with = "String")]
    pub address: FrontendAddress,
    /// The address family.
    pub family: Family,
    /// The port that clients connect to.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Where the address comes from in the Service.
    #[serde(rename = "type")]
    pub kind: FrontendKind,
    /// What happens to a connect.
    pub action: Action,
    /// Why the action is not `forward`; absent if it is `forward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The timeout of `sessionAffinity: ClientIP`, in seconds; absent without session affinity.
    #[serde(rename = "affinityTimeoutSeconds", skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// How a connect chooses among the backends.
    pub balance: Balance,
    /// For a NodePort with only the endpoints of another node, the number of that node
    /// ([`super::other_nodes::number`]); otherwise 0.
    #[serde(skip)]
    pub of_node: u16,
    /// The backends that a connect chooses from, sorted by address and port, without duplicates; empty unless the
    /// action is `forward`.
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
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum FrontendKind {
    ClusterIP,
    ExternalIP,
    LoadBalancer,
    NodePort,
}

/// What the programs do with a connect to a frontend.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes to one of the backends.
    Forward,
    /// It fails with ECONNREFUSED (EPERM before Linux 5.18).
    Refuse,
    /// It stays unchanged, so that kube-proxy serves it.
    Bypass,
}

/// Why a frontend does not forward.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The Service has no usable endpoint anywhere (refused).
    NoEndpoints,
    /// The traffic policy is `Local`, and no usable endpoint is on this node (refused).
    NoLocalEndpoints,
    /// `loadBalancerSourceRanges` needs the source address, which no socket has yet (bypassed).
    SourceRanges,
    /// Sockline does not serve SCTP (bypassed).
    Protocol,
    /// The Service is annotated `sockline.dev/redirect: disabled` (bypassed).
    RedirectDisabled,
    /// The Service has more backends than it [may have](limits.md#objects) (bypassed).
    TooLarge,
}

/// Why an endpoint is among the backends that a connect chooses from, or why it is not.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointReason {
    /// Chosen: it is ready.
    Ready,
    /// Chosen: it still serves while it terminates, and no endpoint is ready.
    ServingWhileTerminating,
    /// Not chosen: it is not ready.
    NotReady,
    /// Not chosen: it terminates and serves no more.
    Terminating,
    /// Not chosen: it terminates, and others are ready.
    OthersAreReady,
    /// Not chosen: the traffic policy is `Local`, and it is on another node.
    NotOnThisNode,
    /// Not chosen: its topology hints name other nodes than this one.
    HintedForOtherNodes,
    /// Not chosen: its topology hints name other zones than that of this node.
    HintedForOtherZones,
    /// Not chosen: another endpoint has the same address and port, and that one counts.
    Duplicate,
    /// Not chosen: its EndpointSlice does not have the port.
    NoSuchPort,
    /// Not chosen: the Service has no ClusterIP of its address family.
    OtherFamily,
}

impl EndpointReason {
    #[must_use]
    pub const fn is_chosen(self) -> bool {
        matches!(self, Self::Ready | Self::ServingWhileTerminating)
    }
}

/// How a connect chooses among the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// At random, by weight.
    Random,
}

/// How far traffic goes from this node to an endpoint. In most clouds, traffic between zones is paid for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficClass {
    /// The endpoint is on this node.
    SameNode,
    /// The endpoint is on another node, in the zone of this node.
    SameZone,
    /// The endpoint is in another zone.
    OtherZone,
    /// The endpoint is not on this node, and its zone or that of this node is not known.
    Unknown,
}

impl TrafficClass {
    pub const ALL: [Self; 4] = [Self::SameNode, Self::SameZone, Self::OtherZone, Self::Unknown];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::SameZone => "same-zone",
            Self::OtherZone => "other-zone",
            Self::Unknown => "unknown",
        }
    }
}

/// One endpoint of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The endpoint's IP address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
    /// The share of connects relative to the other backends, at least 1.
    pub weight: u16,
    /// How far traffic goes from this node to the endpoint.
    pub traffic_class: TrafficClass,
}

impl Backend {
    /// Whether two lists have the same endpoints with the same weights, so that a connect chooses among them in the same
    /// way.
    #[must_use]
    pub fn are_chosen_alike(one: &[Self], other: &[Self]) -> bool {
        let chosen = |backend: &Self| (backend.address, backend.port, backend.weight);
        one.iter().map(chosen).eq(other.iter().map(chosen))
    }
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
