//! A test service for as long as its client is there.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::command::Command;
use crate::model::test_service::TestService;

/// How long a client may keep it.
const AT_MOST: Duration = Duration::from_secs(10);

/// Has the service removed when it is dropped.
#[derive(Debug)]
pub struct Lease {
    service: TestService,
    commands: mpsc::UnboundedSender<Command>,
}

impl Lease {
    pub const fn new(service: TestService, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { service, commands }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A control loop that is gone takes nothing; the next agent's first sync removes it then.
        let _ = self.commands.send(Command::RemoveTest(self.service));
    }
}

/// A response that says where the service is, and goes on until the client closes the connection or
/// its time is over: then the service is removed.
pub fn body(lease: Lease) -> Body {
    let mut line = serde_json::to_vec(&lease.service).unwrap_or_default();
    line.push(b'\n');
    let wait = async move {
        tokio::time::sleep(AT_MOST).await;
        drop(lease);
        Bytes::from_static(b"over\n")
    };
    let parts = stream::once(async move { Bytes::from(line) }).chain(stream::once(wait));
    Body::from_stream(parts.map(Ok::<_, Infallible>))
}
