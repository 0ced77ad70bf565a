//! The smallest cluster that a test of a service needs: a pod that serves it, and a client.

use std::ops::{Deref, DerefMut};

use anyhow::Result;

use crate::{Cluster, Pod, Service, TcpServer, UdpServer};

/// One node with a pod `web` that answers TCP and UDP on [`WebCluster::PORT`], and a pod `client`.
///
/// Dereferences to its [`Cluster`]. Fields are dropped in this order: the servers before their pod, the pods
/// before their node.
pub struct WebCluster {
    pub tcp: TcpServer,
    pub udp: UdpServer,
    pub web: Pod,
    pub client: Pod,
    cluster: Cluster,
}

impl WebCluster {
    /// The port of the pod `web`, for both protocols.
    pub const PORT: u16 = 8080;

    /// A cluster without objects, and so without an agent yet.
    ///
    /// # Errors
    /// Those of [`Cluster::new`], and of starting the pods and their servers.
    pub fn new() -> Result<Self> {
        let mut cluster = Cluster::new()?;
        let (web, client) = (cluster.pod("web")?, cluster.pod("client")?);
        let (tcp, udp) = (web.tcp_server(Self::PORT)?, web.udp_server(Self::PORT)?);
        Ok(Self { tcp, udp, web, client, cluster })
    }

    /// A cluster with this service in the kernel; its endpoint is the pod `web`.
    ///
    /// # Errors
    /// Those of [`WebCluster::new`] and [`Cluster::apply`].
    pub fn with(service: Service) -> Result<Self> {
        let mut this = Self::new()?;
        this.cluster.apply([service.endpoints([&this.web])])?;
        Ok(this)
    }
}

impl Deref for WebCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for WebCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
