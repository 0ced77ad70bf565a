//! One request to the API server, and what comes back: a page, or the lines of a watch.
//!
//! kube's `Api` decodes a whole page or event into one type, and one bad object in it costs all of
//! it; it also keeps the headers of a refusal to itself. Hence the requests are sent here.

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
    selection::{Page, Selection},
    watch_error::Failure,
};
use crate::source::decode::version_of;

/// The server ends every request but a watch after a minute. kube would wait for ever.
const ANSWER: Duration = Duration::from_secs(65);

/// The most of a page that is held in memory. Five hundred objects of the size that etcd takes
/// (1.5 MiB: `--max-request-bytes`) would be a gigabyte.
const MAX_PAGE: usize = 32 << 20;
/// The longest line of a watch. An object that etcd takes is a few times longer as JSON at most.
const MAX_LINE: usize = 16 << 20;
/// The longest refusal that is read.
const MAX_REFUSAL: usize = 1 << 20;

/// The text of one page.
pub(super) async fn page(
    client: &Client,
    selection: &Selection,
    page: &Page,
) -> Result<Bytes, Failure> {
    let request = Request::new(path(selection.kind)).list(&selection.list(page))?;
    let response = send(client, request).await?;
    text(response, MAX_PAGE).await?.ok_or(Failure::LargePage)
}

/// The whole body; `None` if it is longer than `limit` bytes.
async fn text(response: Response<Body>, limit: usize) -> Result<Option<Bytes>, Failure> {
    let body = Limited::new(response.into_body(), limit);
    match within(ANSWER, body.collect()).await? {
        Ok(whole) => Ok(Some(whole.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(error) => match error.downcast::<::kube::Error>() {
            Ok(error) => Err(Failure::Request(*error)),
            Err(error) => Err(Failure::Request(::kube::Error::Service(error))),
        },
    }
}

/// Opens a watch behind `version`; an empty one with `initial` events is the most recent state.
pub(super) async fn watch(
    client: &Client,
    selection: &Selection,
    initial: bool,
    version: &str,
    seconds: u32,
) -> Result<Lines, Failure> {
    let parameters = selection.watch(initial).timeout(seconds);
    let request = Request::new(path(selection.kind)).watch(&parameters, version)?;
    let response = send(client, request).await?;
    let server = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
    Ok(Lines::of(response.into_body(), server))
}

async fn send(client: &Client, request: http::Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
    let response = within(ANSWER, client.send(request.map(Body::from))).await??;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let asked_for = retry_after(response.headers());
    let body = text(response, MAX_REFUSAL).await?.unwrap_or_default();
    // A proxy before the server does not answer in JSON.
    let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
        let words: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        Status::failure(&words, "")
    });
    Err(Failure::Refused { status: Box::new(Status { code, ..status }), retry_after: asked_for })
}

async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(patience, answer).await.map_err(|_| Failure::Silent(patience))
}

/// In seconds, as API servers and their priority and fairness write it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The lines of a watch, as they arrive.
pub(super) struct Lines {
    /// Who sends them.
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

    /// When the last line was read off the connection. What is done about it may come much later.
    pub(super) const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The next line within `patience`, or how the watch ended. What follows the last line end
    /// when it does is half an event: it comes again when the watch is taken up.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<&[u8], Failure> {
        within(patience, self.line()).await?
    }

    async fn line(&mut self) -> Result<&[u8], Failure> {
        loop {
            let end = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(length) = end {
                let (start, end) = (self.start, self.searched + length);
                (self.start, self.searched) = (end + 1, end + 1);
                return Ok(&self.received[start..end]);
            }
            if self.received.len() - self.start > MAX_LINE {
                let length = MAX_LINE >> 20;
                return Err(Failure::Garbage(format!(
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
                Some(Err(_)) => return Err(Failure::Cut),
                None if self.received.is_empty() => return Err(Failure::Ended),
                None => return Err(Failure::Cut),
            }
        }
    }
}

/// Where the objects of a kind are, in all namespaces.
fn path(kind: Kind) -> String {
    let root = if api_group(kind).is_some() { "apis" } else { "api" };
    format!("/{root}/{}/{}", version_of(kind), resource(kind))
}
