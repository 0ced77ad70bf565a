//! The smallest cluster that a test of a service needs: a pod that serves and one that asks.

use anyhow::Result;

use crate::{Cluster, Pod, Service, TcpServer, UdpServer};

/// A pod `web` that answers TCP and UDP on [`Stage::PORT`], and a pod `client`, on one node.
///
/// Fields are dropped in this order: the servers before their pod, the pods before their node.
pub struct Stage {
    pub tcp: TcpServer,
    pub udp: UdpServer,
    pub web: Pod,
    pub client: Pod,
    pub cluster: Cluster,
}

impl Stage {
    /// Where the pod listens, for both protocols.
    pub const PORT: u16 = 8080;

    /// A stage without objects, and so without an agent yet.
    ///
    /// # Errors
    /// Those of [`Cluster::new`], and of starting the pods and their servers.
    pub fn new() -> Result<Self> {
        let mut cluster = Cluster::new()?;
        let (web, client) = (cluster.pod("web")?, cluster.pod("client")?);
        let (tcp, udp) = (web.tcp_server(Self::PORT)?, web.udp_server(Self::PORT)?);
        Ok(Self { tcp, udp, web, client, cluster })
    }

    /// A stage with this service in the kernel, the pod `web` being its endpoint.
    ///
    /// # Errors
    /// Those of [`Stage::new`] and [`Cluster::apply`].
    pub fn with(service: Service) -> Result<Self> {
        let mut stage = Self::new()?;
        stage.cluster.apply([service.endpoints([&stage.web])])?;
        Ok(stage)
    }
}
