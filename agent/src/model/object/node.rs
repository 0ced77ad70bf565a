//! A Node.

use std::{net::IpAddr, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type InternalIP, then those of type ExternalIP.
    pub addresses: Vec<IpAddr>,
}
