//! The document: who connects to which Service, and which endpoints take it.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::Kind,
    model::object::{ObjectName, Protocol},
    workloads::WorkloadRef,
};

/// The connections of this node between clients, Services and endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficMap {
    /// The name of this node's Node object, as the last agent had it.
    pub node_name: String,
    /// Seconds between the two readings that rates are measured with.
    pub interval_seconds: f64,
    /// The service ports that were used, sorted by Service, port name and protocol.
    pub services: Vec<ServiceTraffic>,
}

/// A service port with its clients and endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTraffic {
    /// The Service.
    pub service: ObjectName,
    /// The name of the Service's port; empty if it has none.
    pub port_name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// All of its connections since the maps were created. Calls that the programs refused, because it has no endpoint,
    /// are failures.
    pub traffic: Traffic,
    /// Who connected, sorted by namespace, kind and name.
    pub clients: Vec<ClientTraffic>,
    /// The endpoints that a connect chooses from, sorted by address.
    pub backends: Vec<BackendTraffic>,
}

/// The connections of a client to a service port.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientTraffic {
    /// What the clients are a part of; absent if it is not known: no agent answers, or the source does not have the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// The UID of a pod without a known workload; absent if there is none, or its cgroup is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// How many cgroups connected: containers, or services of systemd.
    pub cgroups: usize,
    /// Their connections, as far as the programs have counts of these cgroups.
    pub traffic: Traffic,
}

/// The connections to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTraffic {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
    /// Its connections since it was added.
    pub traffic: Traffic,
}

/// Counts of connections and their rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Connections that are open, or being opened.
    pub active: u64,
    /// Connections that got an endpoint.
    pub opened: u64,
    /// Connections that were not established.
    pub failed: u64,
    /// Bytes that clients wrote, of connections that ended and of long ones that are open.
    pub sent_bytes: u64,
    /// Bytes that came, of connections that ended and of long ones that are open.
    pub received_bytes: u64,
    /// What was counted between the two readings, for each second.
    pub rates: Rates,
}

/// Counts in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// Connections that got an endpoint.
    pub opened: f64,
    /// Connections that were not established.
    pub failed: f64,
    /// Bytes that clients wrote, of connections that ended and of long ones that are open.
    pub sent_bytes: f64,
    /// Bytes that came, of connections that ended and of long ones that are open.
    pub received_bytes: f64,
}

impl Kind for TrafficMap {
    const KIND: &'static str = "TrafficMap";
}

impl Traffic {
    /// Adds those of another client or endpoint.
    pub fn add(&mut self, other: &Self) {
        self.active += other.active;
        self.opened += other.opened;
        self.failed += other.failed;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.rates.opened += other.rates.opened;
        self.rates.failed += other.rates.failed;
        self.rates.sent_bytes += other.rates.sent_bytes;
        self.rates.received_bytes += other.rates.received_bytes;
    }

    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.opened == 0 && self.active == 0 && self.failed == 0
    }
}
