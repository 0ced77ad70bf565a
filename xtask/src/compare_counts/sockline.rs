//! What Sockline's metrics say of the connections to a service.

use anyhow::Result;
use sockline_testbed::{Cluster, Protocol};

pub(super) struct Counted {
    pub(super) opened: u64,
    pub(super) active: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Closed by the client in an orderly way.
    pub(super) closed_by_client: u64,
    pub(super) closed_by_server: u64,
    /// Reset by one side, or lost.
    pub(super) cut: u64,
    pub(super) refused: u64,
    /// Not established for another reason.
    pub(super) failed: u64,
}

impl Counted {
    pub(super) fn read(cluster: &Cluster, service: &str, protocol: Protocol) -> Result<Self> {
        let metrics = cluster.metrics()?;
        let protocol = protocol.to_string();
        let of = |name: &str, more: &[(&str, &str)]| {
            let labels = [&[("service", service), ("protocol", protocol.as_str())], more].concat();
            metrics.sum(&format!("sockline_{name}"), &labels) as u64
        };
        let closed = |how: &str| of("connections_closed_total", &[("how", how)]);
        let failed = |reason: &str| of("connections_failed_total", &[("reason", reason)]);
        Ok(Self {
            opened: of("connections_opened_total", &[]),
            active: of("connections_active", &[]),
            sent: of("sent_bytes_total", &[]),
            received: of("received_bytes_total", &[]),
            closed_by_client: closed("client"),
            closed_by_server: closed("server"),
            cut: ["client-reset", "server-reset", "lost"].map(closed).iter().sum(),
            refused: failed("refused"),
            failed: ["timed-out", "unreachable", "given-up"].map(failed).iter().sum(),
        })
    }
}
