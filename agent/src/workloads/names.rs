//! The documents with the names of clients, which the admin socket returns.

use serde::{Deserialize, Serialize};

use super::client::{Client, WorkloadRef};
use crate::{api, status::PodRef};

/// Which clients to name. A field that this build does not know might restrict it, so there must be none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientQuery {
    /// The ids of their cgroups.
    pub cgroups: Vec<u64>,
}

/// The names of clients; those that nothing is known of are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientNames {
    pub clients: Vec<NamedClient>,
}

/// A client with its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedClient {
    pub cgroup: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
}

impl From<NamedClient> for Client {
    fn from(NamedClient { pod, workload, .. }: NamedClient) -> Self {
        Self { pod, workload }
    }
}

api::kinds! {
    ClientQuery = "ClientQuery",
    ClientNames = "ClientNames",
}
