//! The client of the admin socket, for the command line.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{AgentInfo, LogFilter, PodLookup, PodSubject, ProgramLogRequest, Subject};
use crate::{
    api::{self, Document, Kind},
    dataplane::Drift,
    model::{
        explain::Explanation,
        object::ObjectName,
        probe_service::{Listeners, ProbeService},
    },
    status::Status,
    workloads::{Client, ClientNames, ClientQuery},
};

/// Timeout of a request. Longer than the agent waits for its control loop, so that the agent's own error
/// comes first.
const TIMEOUT: Duration = Duration::from_secs(8);

/// How many clients are named by one request, whose body is limited to 64 KiB: an id has up to 20 digits.
const MAX_CLIENTS: usize = 2500;

/// Gets the status of the running agent.
///
/// # Errors
/// When no agent answers on the socket.
pub async fn status(socket: &Path) -> anyhow::Result<Status> {
    get(socket, "/status").await
}

/// Gets what only the process of the running agent knows.
///
/// # Errors
/// When no agent answers on the socket, or one of another version.
pub async fn info(socket: &Path) -> anyhow::Result<AgentInfo> {
    get(socket, "/info").await
}

/// Has the running agent compare its plan with the maps. Nothing is changed.
///
/// # Errors
/// When no agent answers on the socket, or the reason why the agent cannot compare.
pub async fn drift(socket: &Path) -> anyhow::Result<Drift> {
    get(socket, "/drift").await
}

/// Has the running agent explain how it serves a service, or one port of it, and why.
///
/// # Errors
/// When no agent answers on the socket, one of another version, or the reason why the agent cannot tell yet.
pub async fn explain(socket: &Path, subject: &Subject) -> anyhow::Result<Explanation> {
    send_document(socket, Method::POST, "/explain", subject).await
}

/// Has the running agent look up a pod.
///
/// # Errors
/// When no agent answers on the socket, one of another version, or the reason why the agent cannot tell yet.
pub async fn look_up_pod(socket: &Path, pod: ObjectName) -> anyhow::Result<PodLookup> {
    send_document(socket, Method::POST, "/pod", &PodSubject { pod }).await
}

/// Gets what the running agent knows of the clients in these cgroups.
///
/// # Errors
/// When no agent answers on the socket, or one of another version.
pub async fn clients(socket: &Path, cgroups: Vec<u64>) -> anyhow::Result<HashMap<u64, Client>> {
    let mut all = HashMap::new();
    for cgroups in cgroups.chunks(MAX_CLIENTS) {
        let query = ClientQuery { cgroups: cgroups.to_vec() };
        let names: ClientNames = send_document(socket, Method::POST, "/clients", &query).await?;
        all.extend(names.clients.into_iter().map(|client| (client.cgroup, client.into())));
    }
    Ok(all)
}

/// Gets what the running agent logs.
///
/// # Errors
/// When no agent answers on the socket.
pub async fn log_level(socket: &Path) -> anyhow::Result<LogFilter> {
    get(socket, "/log-level").await
}

/// Changes what the running agent logs.
///
/// # Errors
/// When no agent answers on the socket, or the filter is not one.
pub async fn set_log_level(socket: &Path, filter: &str) -> anyhow::Result<LogFilter> {
    let filter = LogFilter { filter: filter.to_owned(), programs: None };
    send_document(socket, Method::PUT, "/log-level", &filter).await
}

/// Has the kernel programs log what they decide; `None` ends it.
///
/// # Errors
/// When no agent answers on the socket, one of another version, or the reason why the agent refuses it.
pub async fn log_programs(
    socket: &Path,
    wanted: Option<ProgramLogRequest>,
) -> anyhow::Result<LogFilter> {
    match wanted {
        Some(wanted) => send_document(socket, Method::PUT, "/program-log", &wanted).await,
        None => request(socket, Method::DELETE, "/program-log", Vec::new()).await,
    }
}

/// A probe service in the maps. The agent removes it after this is dropped and the connection is closed,
/// which needs a running runtime or its end.
pub struct ProbeLease {
    pub service: ProbeService,
    _body: Incoming,
}

/// Has the running agent add a probe service to the maps.
///
/// # Errors
/// When no agent answers on the socket, or the reason why the agent cannot add it.
pub async fn add_probe_service(socket: &Path, listeners: Listeners) -> anyhow::Result<ProbeLease> {
    let request = serde_json::to_vec(&Document::new(listeners))?;
    let answer = async {
        let mut body = send(socket, Method::POST, "/probe-service", request).await?.into_body();
        let first = body.frame().await.context("the agent's answer is empty")??;
        let service = first.into_data().ok().context("the agent's answer has no data")?;
        Ok(ProbeLease { service: read(&service)?, _body: body })
    };
    with_timeout(socket, answer).await
}

async fn get<T: Kind + DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    request(socket, Method::GET, path, Vec::new()).await
}

async fn send_document<T: Kind + DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    document: &(impl Kind + Serialize),
) -> anyhow::Result<T> {
    request(socket, method, path, serde_json::to_vec(&Document::new(document))?).await
}

async fn request<T: Kind + DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<T> {
    let answer = async {
        let body = send(socket, method, path, body).await?.into_body().collect().await?.to_bytes();
        read(&body)
    };
    with_timeout(socket, answer).await
}

/// Reads the document of an answer.
fn read<T: Kind + DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    api::read(body).context("the agent's answer cannot be read")
}

pub(super) async fn with_timeout<T>(
    socket: &Path,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or_else(|_| {
        anyhow::bail!("the agent on {} does not answer within {TIMEOUT:?}", socket.display())
    })
}

/// Sends a request. A response whose status is not a success is an error.
pub(super) async fn send(
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
