//! One request to the API server, and its response: a page, or the lines of a watch.
//!
//! kube's `Api` is not used: it decodes a whole page or event into one type, so that one bad object costs all of it, and
//! its errors have no headers. Lines are split here and not by `tokio_util`'s `LinesCodec`: what follows the last line end
//! is half an event, which `LinesCodec` returns as a line.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ::kube::{
    Client,
    client::Body,
    core::{Request, Status},
};
use bytes::Bytes;
use http::{HeaderMap, Response, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper_util::client::legacy::connect::HttpInfo;
use tokio::time::timeout;

use super::{
    Kind, api_group, resource,
    selection::{Page, Selection, WatchFrom},
    watch_error::WatchError,
};
use crate::source::decode::version_of;

/// Timeout of a request. The server ends all requests but watches after a minute; kube has no timeout.
const ANSWER: Duration = Duration::from_secs(65);

/// Maximum bytes of a page. Five hundred objects of the size that etcd accepts (1.5 MiB: `--max-request-bytes`) would be
/// almost a gigabyte.
const MAX_PAGE: usize = 32 << 20;
/// Maximum bytes of a line of a watch. As JSON, an object is at most a few times longer than in etcd.
const MAX_LINE: usize = 16 << 20;
/// Maximum bytes of an error response.
const MAX_REFUSAL: usize = 1 << 20;

/// The text of one page.
pub(super) async fn page(
    client: &Client,
    selection: &Selection,
    page: &Page,
) -> Result<Bytes, WatchError> {
    let request = Request::new(path(selection.kind)).list(&selection.list(page))?;
    let response = send(client, request).await?;
    text(response, MAX_PAGE).await?.ok_or(WatchError::LargePage)
}

/// The whole body; `None` if it is longer than `limit` bytes.
async fn text(response: Response<Body>, limit: usize) -> Result<Option<Bytes>, WatchError> {
    let body = Limited::new(response.into_body(), limit);
    match within(ANSWER, body.collect()).await? {
        Ok(whole) => Ok(Some(whole.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(error) => match error.downcast::<::kube::Error>() {
            Ok(error) => Err(WatchError::Request(*error)),
            Err(error) => Err(WatchError::Request(::kube::Error::Service(error))),
        },
    }
}

/// Opens a watch.
pub(super) async fn watch(
    client: &Client,
    selection: &Selection,
    from: WatchFrom<'_>,
    seconds: u32,
) -> Result<Lines, WatchError> {
    let parameters = selection.watch(from).timeout(seconds);
    // With initial events, no version is the most recent one.
    let version = match from {
        WatchFrom::InitialEvents => "",
        WatchFrom::Version(version) => version,
    };
    let request = Request::new(path(selection.kind)).watch(&parameters, version)?;
    let response = send(client, request).await?;
    let server = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
    Ok(Lines::of(response.into_body(), server))
}

async fn send(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<Response<Body>, WatchError> {
    let response = within(ANSWER, client.send(request.map(Body::from))).await??;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let asked_for = retry_after(response.headers());
    let body = text(response, MAX_REFUSAL).await?.unwrap_or_default();
    // A proxy in front of the server does not answer in JSON.
    let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
        let words: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        Status::failure(&words, "")
    });
    Err(WatchError::Refused { status: Box::new(Status { code, ..status }), retry_after: asked_for })
}

async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, WatchError> {
    timeout(limit, answer).await.map_err(|_| WatchError::Silent(limit))
}

/// In seconds, as API servers and API Priority and Fairness write it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The lines of a watch, as they arrive.
pub(super) struct Lines {
    /// The server's address.
    pub(super) server: Option<SocketAddr>,
    body: Body,
    received: Vec<u8>,
    /// When the last part was read.
    arrived: Instant,
    /// Where in `received` the next line begins.
    start: usize,
    /// Up to where there is no line end behind `start`.
    searched: usize,
}

impl Lines {
    fn of(body: Body, server: Option<SocketAddr>) -> Self {
        Self { server, body, received: Vec::new(), arrived: Instant::now(), start: 0, searched: 0 }
    }

    /// When the last line was read from the connection, which may be long before it is handled.
    pub(super) const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The next line within `limit`, or how the watch ended. What follows the last line end is half an event, which
    /// comes again when the watch is resumed; `tokio_util`'s `LinesCodec` would return it as a line.
    pub(super) async fn next(&mut self, limit: Duration) -> Result<&[u8], WatchError> {
        within(limit, self.line()).await?
    }

    async fn line(&mut self) -> Result<&[u8], WatchError> {
        loop {
            let end = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(length) = end {
                let (start, end) = (self.start, self.searched + length);
                (self.start, self.searched) = (end + 1, end + 1);
                return Ok(&self.received[start..end]);
            }
            if self.received.len() - self.start > MAX_LINE {
                let length = MAX_LINE >> 20;
                return Err(WatchError::Garbage(format!(
                    "a line of more than {length} MiB in a watch"
                )));
            }
            self.received.drain(..self.start);
            (self.start, self.searched) = (0, self.received.len());
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.arrived = Instant::now();
                    if let Some(data) = frame.data_ref() {
                        self.received.extend_from_slice(data);
                    }
                }
                Some(Err(_)) => return Err(WatchError::Cut),
                None if self.received.is_empty() => return Err(WatchError::Ended),
                None => return Err(WatchError::Cut),
            }
        }
    }
}

/// The path of a kind's objects in all namespaces.
fn path(kind: Kind) -> String {
    let root = if api_group(kind).is_some() { "apis" } else { "api" };
    format!("/{root}/{}/{}", version_of(kind), resource(kind))
}
