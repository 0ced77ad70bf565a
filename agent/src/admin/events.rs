//! The client of `POST /events`: what happens to connections, as it happens.

use std::path::Path;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming};
use serde::Deserialize;

use super::client::{send, with_timeout};
use crate::{
    api::{self, Document, Kind as _},
    watch::{ConnectionEvent, EndReason, EventFilter, EventLosses, READ_TIMEOUT, WatchEnd},
};

/// A document of the stream.
#[derive(Debug)]
pub enum Watched {
    Event {
        event: Box<ConnectionEvent>,
        /// As the agent sent it, without the line's end.
        text: Bytes,
    },
    Losses(EventLosses),
    /// The last one.
    End(EndReason),
}

/// Documents of a running agent. Dropping it ends the watch, which needs a running runtime or its end.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    /// Received, and not a whole line yet.
    rest: BytesMut,
}

/// Begins to watch. The agent sends the first document once it does.
///
/// # Errors
/// When no agent answers on the socket, or one that has no events.
pub async fn watch(socket: &Path, filter: &EventFilter) -> anyhow::Result<EventStream> {
    let request = serde_json::to_vec(&Document::new(filter))?;
    let answer = async {
        let body = send(socket, Method::POST, "/events", request).await?.into_body();
        Ok(EventStream { body, rest: BytesMut::new() })
    };
    with_timeout(socket, answer).await
}

impl EventStream {
    /// All documents that have arrived, at least one; `None` once the stream has ended.
    ///
    /// # Errors
    /// When the stream is cut off, or a document cannot be read.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Watched>>> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            // The agent did not get rid of the last document: it was killed, or the connection was full.
            let frame = frame.with_context(|| {
                format!(
                    "the agent has ended, or has ended this watch because nothing was read for {READ_TIMEOUT:?}"
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            self.rest.extend_from_slice(&data);
            let mut documents = Vec::new();
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line = self.rest.split_to(end).freeze();
                self.rest.advance(1);
                documents.extend(read(line).context("the agent's answer cannot be read")?);
            }
            if !documents.is_empty() {
                return Ok(Some(documents));
            }
        }
    }
}

/// `None` for a document of a kind that a later agent may send.
fn read(line: Bytes) -> anyhow::Result<Option<Watched>> {
    #[derive(Deserialize)]
    struct OfKind {
        kind: Option<String>,
    }
    let OfKind { kind } = serde_json::from_slice(&line)?;
    Ok(match kind.as_deref() {
        Some(ConnectionEvent::KIND) => {
            Some(Watched::Event { event: Box::new(api::read(&line)?), text: line })
        }
        Some(EventLosses::KIND) => Some(Watched::Losses(api::read(&line)?)),
        Some(WatchEnd::KIND) => Some(Watched::End(api::read::<WatchEnd>(&line)?.reason)),
        _ => None,
    })
}
