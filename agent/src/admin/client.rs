//! The command line's end of the admin socket.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Myself;
use crate::{
    dataplane::Drift,
    model::test_service::{Listeners, TestService},
    status::Status,
};

/// How long an answer may take: longer than the agent waits for its control loop, which says more.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks a running agent for its status.
///
/// # Errors
/// When nobody answers on the socket.
pub async fn status(socket: &Path) -> anyhow::Result<Status> {
    ask(socket, Method::GET, "/status", Vec::new()).await
}

/// Asks a running agent for what only its process knows.
///
/// # Errors
/// When nobody answers on the socket, or an agent that is too old for the question.
pub async fn myself(socket: &Path) -> anyhow::Result<Myself> {
    ask(socket, Method::GET, "/self", Vec::new()).await
}

/// Has a running agent compare its plan with the maps, without a change.
///
/// # Errors
/// When nobody answers on the socket, or the agent cannot compare; says why.
pub async fn compare(socket: &Path) -> anyhow::Result<Drift> {
    ask(socket, Method::POST, "/compare", Vec::new()).await
}

/// A test service in the maps. The agent removes it when this is dropped and the runtime has ended or
/// got to work on it.
pub struct TestLease {
    pub service: TestService,
    _body: Incoming,
}

/// Has a running agent put a test service into the maps.
///
/// # Errors
/// When nobody answers on the socket, or the agent cannot do it; says why.
pub async fn test_service(socket: &Path, listeners: Listeners) -> anyhow::Result<TestLease> {
    let request = serde_json::to_vec(&listeners)?;
    let answer = async {
        let mut body = send(socket, Method::POST, "/test-service", request).await?.into_body();
        let first = body.frame().await.context("the agent's answer is empty")??;
        let service = first.into_data().ok().context("the agent's answer has no data")?;
        let service =
            serde_json::from_slice(&service).context("the agent's answer makes no sense")?;
        Ok(TestLease { service, _body: body })
    };
    patiently(socket, answer).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<T> {
    let answer = async {
        let body = send(socket, method, path, body).await?.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&body).context("the agent's answer makes no sense")
    };
    patiently(socket, answer).await
}

async fn patiently<T>(
    socket: &Path,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
        anyhow::bail!("the agent on {} does not answer within {PATIENCE:?}", socket.display())
    })
}

/// A response of status 200.
async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("no agent answers on {}", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "sockline")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    if !status.is_success() {
        let reason = response.into_body().collect().await?.to_bytes();
        let reason = String::from_utf8_lossy(&reason);
        if reason.is_empty() {
            anyhow::bail!("the agent answers {status} to {path}; it may be of another version");
        }
        anyhow::bail!("{}", reason.trim_end());
    }
    Ok(response)
}
