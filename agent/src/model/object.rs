//! The Kubernetes objects Sockline plans from, cut down to the fields it reads.
//!
//! `source` makes these from manifests or from the API server and reports what it had to leave
//! out as [`InputError`]s; a value that exists here is valid: ports are 1 to 65535, addresses are of
//! the family that holds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

/// Namespace and name of an object; the namespace of a Node or a Namespace is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `namespace/name`, or only the name for an object without a namespace.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The kinds of objects that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    Namespace,
    Pod,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Service, Self::EndpointSlice, Self::Node, Self::Namespace, Self::Pod];

    /// The `kind` of the Kubernetes API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
        }
    }

    /// Whether objects of the kind are in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Pod => true,
            Self::Node | Self::Namespace => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object an event or a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: Kind,
    pub name: ObjectName,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An address family, as `spec.ipFamilies` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::IPv4, Self::IPv6];

    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::IPv4,
            IpAddr::V6(_) => Self::IPv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        })
    }
}

/// A service port's protocol, as the Kubernetes API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// A Service, without ExternalName, headless and foreign-proxy ones: those never get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: ObjectName,
    /// `metadata.uid`: another one is another object, though of the same name. Manifests have none.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp` in seconds since the epoch; decides who keeps an address that
    /// two services claim. `None` (a hand-written manifest) counts as newer than any time.
    pub created: Option<i64>,
    /// At most one per family, in `spec.clusterIPs` order.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of the entries whose `ipMode` is VIP or absent.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` is not empty for this family (KEP-less; kube-proxy filters
    /// by family before it applies them). Index: [`Family`] as usize.
    pub source_ranges: [bool; 2],
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: TrafficPolicy,
    pub external_traffic_policy: TrafficPolicy,
    /// `Some(seconds)` for `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
    /// Disabled: connections to it are bypassed, for all clients.
    pub redirect: Redirect,
    /// `sockline.dev/close-on-removal`: how long TCP connections to an endpoint that was removed may
    /// stay open; `None`: without a limit.
    pub close_on_removal: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for an unnamed port, as in the EndpointSlice port that matches it.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// An EndpointSlice of addressType IPv4 or IPv6 (FQDN slices never get here).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// The label `kubernetes.io/service-name`; in the slice's own namespace.
    pub service: Arc<str>,
    pub family: Family,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
    /// The annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the pod or the service
    /// changed that the slice was last changed for. The endpoint-slice controller sets it.
    pub triggered: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`: like kube-proxy, the others are not used (they are deprecated in the API).
    pub address: IpAddr,
    pub node: Option<Arc<str>>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Many endpoints have the same ones.
    pub hints: Option<Arc<Hints>>,
}

/// Where traffic to an endpoint had best come from; not both empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hints {
    /// `hints.forZones[].name`
    pub zones: BTreeSet<Arc<str>>,
    /// `hints.forNodes[].name`
    pub nodes: BTreeSet<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type InternalIP, then those of type ExternalIP.
    pub addresses: Vec<IpAddr>,
}

/// `sockline.dev/redirect`: whether Sockline has a hand in connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirect {
    #[default]
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    /// For the connections of its pods without a label or annotation of their own.
    pub redirect: Redirect,
}

/// A Pod, as far as it matters to leave it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: ObjectName,
    /// `spec.nodeName`; `None` before it is scheduled.
    pub node: Option<Arc<str>>,
    /// What the kubelet names the pod's cgroup by: `metadata.uid`, or for the mirror of a static
    /// pod the annotation `kubernetes.io/config.hash`.
    pub cgroup_uid: Arc<str>,
    /// `None` without a label and annotation.
    pub redirect: Option<Redirect>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub phase: PodPhase,
}

/// `status.phase`, cut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// It has a cgroup soon, or has one already: its containers may be starting.
    Pending,
    /// It has a cgroup.
    Running,
    /// Succeeded or Failed: none of its processes is left.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
}

impl Object {
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Service(o) => ObjectRef { kind: Kind::Service, name: o.name.clone() },
            Self::EndpointSlice(o) => ObjectRef { kind: Kind::EndpointSlice, name: o.name.clone() },
            Self::Node(o) => {
                ObjectRef { kind: Kind::Node, name: ObjectName::new("", o.name.clone()) }
            }
            Self::Namespace(o) => {
                ObjectRef { kind: Kind::Namespace, name: ObjectName::new("", o.name.clone()) }
            }
            Self::Pod(o) => ObjectRef { kind: Kind::Pod, name: o.name.clone() },
        }
    }
}

/// An error in the input: an object that is invalid or conflicts with another one, or a source that cannot be
/// read. Only what it names is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InputError {
    /// `Service shop/cart`, or `file web.yaml, document 3`.
    pub object: String,
    /// The field's path in the object, `spec.ports[0].port`; empty when it concerns all of it.
    pub field: String,
    /// The error and its consequence: `0 is not a port number; the port is skipped`. The consequence
    /// follows the last `; `; [`Self::set_consequence`] replaces it.
    pub message: String,
}

/// Maximum length, in characters, of a text from outside in a message.
const SHORT: usize = 400;

/// Shortens a long text from outside. What follows the last `; ` stays, because it is the consequence.
#[must_use]
pub fn shorten(text: String) -> String {
    if text.chars().nth(SHORT).is_none() {
        return text;
    }
    let start: String = text.chars().take(SHORT / 2).collect();
    let consequence = text.rfind("; ").map_or("", |at| &text[at..]);
    let consequence: String = consequence.chars().take(SHORT / 2).collect();
    format!("{start}…{consequence}")
}

impl InputError {
    /// Replaces the consequence in the message.
    pub fn set_consequence(&mut self, consequence: &str) {
        if let Some(at) = self.message.rfind("; ") {
            self.message.truncate(at);
        }
        self.message.push_str("; ");
        self.message.push_str(consequence);
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
