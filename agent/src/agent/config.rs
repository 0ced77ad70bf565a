//! What the agent is configured with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use crate::status::Source;
use crate::{
    dataplane::{ClientCounting, FeatureSet, Limits, NestedNamespaces, Telemetry},
    log_level::LogLevel,
    model::{
        exclusion::Policy,
        node_addresses::{NodePortAddresses, NodePortScope},
    },
    source::kube::Watched,
    telemetry::ClientFamilies,
};

#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    pub cgroup_root: Option<PathBuf>,
    pub bpf_root: Option<PathBuf>,
    /// Where metrics and health are served.
    pub metrics_bind_address: SocketAddr,
    pub admin_socket: PathBuf,
    pub limits: Limits,
    /// Kernel features that are not used.
    pub without: FeatureSet,
    /// How long after the agent last renewed its deadline all calls are bypassed; `None` is never.
    pub fail_open_after: Option<Duration>,
    pub nested: NestedNamespaces,
    /// How often the maps are reconciled.
    pub reconcile_interval: Duration,
    /// Which pods are excluded, regardless of their labels and annotations.
    pub excluded_pods: Policy,
    /// Which of the node's addresses serve NodePorts.
    pub node_port_addresses: NodePortAddresses,
    /// Which nodes' NodePorts are served.
    pub node_ports: NodePortScope,
    pub telemetry: Telemetry,
    /// How often connections are counted while they are open, at most.
    pub open_connections_interval: Duration,
    pub client_counts: ClientCounting,
    /// Which metrics of client workloads there are.
    pub client_families: ClientFamilies,
    pub log_level: LogLevel,
}

impl Config {
    pub(super) const fn watched(&self) -> Watched<'_> {
        Watched { node: self.node_name.as_str(), node_ports: self.node_ports }
    }
}
