//! What the agent is configured with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    dataplane::{Feature, Limits, NestedNamespaces},
    model::{
        exclusion::Policy,
        node_addresses::{NodePortAddresses, NodePortScope},
    },
    source::kube::Watched,
};

/// The source of the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server that a kubeconfig file names, or the cluster this process runs in.
    Kubernetes { kubeconfig: Option<PathBuf> },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifests(folder) => write!(f, "manifests in {}", folder.display()),
            Self::Kubernetes { kubeconfig: Some(file) } => {
                write!(f, "Kubernetes API of {}", file.display())
            }
            Self::Kubernetes { kubeconfig: None } => f.write_str("Kubernetes API of this cluster"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    pub cgroup: Option<PathBuf>,
    pub bpffs: Option<PathBuf>,
    /// Metrics and health.
    pub listen: SocketAddr,
    pub admin_socket: PathBuf,
    pub limits: Limits,
    /// Kernel features that are not used.
    pub without: Vec<Feature>,
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
}

impl Config {
    pub(super) const fn watched(&self) -> Watched<'_> {
        Watched { node: self.node_name.as_str(), node_ports: self.node_ports }
    }
}
