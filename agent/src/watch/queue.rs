//! The client's side of a watcher: what waits for it, and the last document.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::document::{EndReason, WatchEnd};
use crate::api::{Document, Kind};

/// The client's side of a watcher.
pub(super) struct Queue {
    received: mpsc::UnboundedReceiver<Bytes>,
    queued: Arc<AtomicUsize>,
    end: CancellationToken,
    /// The last document was taken.
    is_over: bool,
    _ends: DropGuard,
    _place: Option<OwnedSemaphorePermit>,
}

impl Queue {
    pub(super) fn new(
        received: mpsc::UnboundedReceiver<Bytes>,
        queued: Arc<AtomicUsize>,
        end: CancellationToken,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let ends = end.clone().drop_guard();
        Self { received, queued, end, is_over: false, _ends: ends, _place: place }
    }

    /// The last document is not queued, because the queue may be full. It comes instead of what waits if that was not
    /// read, or else after it.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let reason = tokio::select! {
            biased;
            () = self.end.cancelled() => EndReason::NotRead,
            lines = self.received.recv() => match lines {
                Some(lines) => {
                    self.queued.fetch_sub(lines.len(), Ordering::Relaxed);
                    return Some(lines);
                }
                // Only the hub's end drops a watcher that has not ended.
                None => EndReason::AgentStopping,
            },
        };
        self.is_over = true;
        Some(line(&WatchEnd { reason }).into())
    }
}

/// A document on one line.
pub(super) fn line<T: Kind + Serialize>(document: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Document::new(document)).unwrap_or_default();
    line.push(b'\n');
    line
}
