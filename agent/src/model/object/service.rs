//! A Service.

use std::{net::IpAddr, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{protocol::Protocol, redirect::Redirect, reference::ObjectName};

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
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
    /// by family before it applies them). Index: [`super::Family`] as usize.
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
