//! The document that `sockline trace` prints.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::Kind,
    duration,
    model::{
        object::{Family, ObjectName, Protocol, TrafficPolicy},
        plan::{Action, EndpointReason, FrontendKind, Reason, TrafficClass},
    },
};

/// How the choice is made for one Service on this node, and what came of one connect.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TraceReport {
    /// The name of this node's Node object, as the last agent had it.
    pub node_name: String,
    /// The zone of this node; absent if it has none, or no agent explains the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub zone: Option<Arc<str>>,
    /// The Service.
    pub service: ObjectName,
    /// The Service's `internalTrafficPolicy`; absent if no agent explains the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    /// The Service's `externalTrafficPolicy`; absent if no agent explains the choice. Clients on the node get the
    /// endpoints of the whole cluster at external addresses, whatever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// What to know about all of it, such as what is wrong with the Service's objects, or that no agent runs.
    pub messages: Vec<String>,
    /// The Service's ports, one for each address family that it has.
    pub ports: Vec<Port>,
    /// The connect; absent if none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
}

impl Kind for TraceReport {
    const KIND: &'static str = "TraceReport";
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name of the Service's port; empty if it has none.
    #[schemars(with = "String")]
    pub port_name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The address family.
    pub family: Family,
    /// The addresses that clients connect to.
    pub frontends: Vec<TracedFrontend>,
    /// The choices that addresses have; several if their traffic policies differ.
    pub choices: Vec<TracedChoice>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedFrontend {
    /// Where the address comes from in the Service.
    #[serde(rename = "type")]
    pub kind: FrontendKind,
    /// The address that clients connect to: an IP address; `*` for all addresses of this node (a NodePort); or
    /// `other-nodes` for all addresses of other nodes that have no entry of their own.
    pub address: String,
    /// The port that clients connect to.
    pub port: u16,
    /// What happens to a connect.
    pub action: Action,
    /// Why the action is not `forward`; absent if it is `forward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The timeout of `sessionAffinity: ClientIP`, in seconds; absent without session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_timeout_seconds: Option<u32>,
    /// How many endpoints a connect chooses from.
    pub backends: usize,
    /// Which of the port's choices it has, from 0; absent if it has the endpoints of another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// Whether the maps have it as planned; absent if no agent explains the choice, or another service port has the
    /// address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_maps: Option<InMaps>,
    /// The service port that has the address in its place; absent if none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<OtherPort>,
}

/// Whether the maps have what is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InMaps {
    /// The maps have it.
    AsPlanned,
    /// The maps have another action, or other backends.
    Differs,
    /// The maps do not have it.
    Missing,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtherPort {
    /// Its Service.
    pub service: ObjectName,
    /// The name of its port; empty if it has none.
    #[schemars(with = "String")]
    pub port_name: Arc<str>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedChoice {
    /// The traffic policy; absent if no agent explains the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// The endpoints of the Service's EndpointSlices, and those that only the maps have.
    pub endpoints: Vec<TracedEndpoint>,
    /// How many more endpoints the EndpointSlices have: 10,000 are listed, for all ports together, and none of a Service
    /// that has more backends than it [may have](limits.md#objects).
    pub unlisted: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedEndpoint {
    /// The endpoint's IP address.
    pub address: IpAddr,
    /// The endpoint's port; absent if its EndpointSlice does not have the Service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the agent chooses it; absent if no agent explains the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<bool>,
    /// Why it is chosen or not; absent if no agent explains the choice, or no EndpointSlice has the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndpointReason>,
    /// Whether the maps have it as a backend. Backends of addresses that are refused, bypassed or another Service's are
    /// not in the maps.
    pub in_maps: bool,
    /// What its EndpointSlice says of it; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listed: Option<Listed>,
}

/// An endpoint in its EndpointSlice.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The name of the EndpointSlice.
    #[schemars(with = "String")]
    pub endpoint_slice: Arc<str>,
    /// The node that the endpoint is on; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub node_name: Option<Arc<str>>,
    /// The zone that the endpoint is in; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub zone: Option<Arc<str>>,
    /// How far traffic goes from this node to the endpoint.
    pub traffic_class: TrafficClass,
    /// The condition `ready`.
    pub ready: bool,
    /// The condition `serving`.
    pub serving: bool,
    /// The condition `terminating`.
    pub terminating: bool,
    /// The zones of its topology hints.
    #[schemars(with = "Vec<String>")]
    pub hinted_zones: BTreeSet<Arc<str>>,
    /// The nodes of its topology hints.
    #[schemars(with = "Vec<String>")]
    pub hinted_nodes: BTreeSet<Arc<str>>,
}

/// A connect from this command's network namespace and cgroup.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connect {
    /// The Service's address that it connected to.
    pub address: IpAddr,
    /// The port that it connected to.
    pub port: u16,
    /// The protocol. Nothing is sent with UDP, so an endpoint that is away does not show.
    pub protocol: Protocol,
    /// Whether `connect()` succeeded.
    pub connected: bool,
    /// The endpoint that the programs chose, from the socket's record; absent if the call was not translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointAddress>,
    /// What `getpeername()` returns; absent if the socket is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub peer: Option<SocketAddr>,
    /// How long the call took.
    #[serde(with = "duration::as_text")]
    #[schemars(with = "duration::Text")]
    pub took: Option<Duration>,
    /// What came of it, for people.
    pub message: String,
}

/// An endpoint's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EndpointAddress {
    /// The endpoint's IP address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}
