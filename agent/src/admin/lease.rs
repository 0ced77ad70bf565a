//! A probe service that exists as long as its client is connected.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::command::Command;
use crate::{api::Document, model::probe_service::ProbeService};

/// How long a client may keep a probe service.
const MAX_DURATION: Duration = Duration::from_secs(30);

/// Removes the service when dropped.
#[derive(Debug)]
pub struct Lease {
    service: ProbeService,
    commands: mpsc::UnboundedSender<Command>,
}

impl Lease {
    pub const fn new(service: ProbeService, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { service, commands }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If the control loop has ended, the first sync of the next agent removes the service.
        let _ = self.commands.send(Command::RemoveProbeService(self.service));
    }
}

/// A response body with the service, which ends after [`MAX_DURATION`]. The service is removed then, or when
/// the client closes the connection.
pub fn body(lease: Lease) -> Body {
    let mut line = serde_json::to_vec(&Document::new(lease.service)).unwrap_or_default();
    line.push(b'\n');
    let wait = async move {
        tokio::time::sleep(MAX_DURATION).await;
        drop(lease);
        Bytes::from_static(b"over\n")
    };
    let parts = stream::once(async move { Bytes::from(line) }).chain(stream::once(wait));
    Body::from_stream(parts.map(Ok::<_, Infallible>))
}
