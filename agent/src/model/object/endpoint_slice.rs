//! An EndpointSlice and its endpoints.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{
    protocol::{Family, Protocol},
    reference::ObjectName,
};

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
    /// `zone`: where the endpoint is.
    pub zone: Option<Arc<str>>,
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
