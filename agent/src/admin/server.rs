//! The server of the admin socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
        net,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Extension, Json, Router,
    body::Body,
    extract,
    http::StatusCode,
    routing::{get, post, put},
};
use bytes::Bytes;
use nix::sys::stat::{Mode, umask};
use serde::de::DeserializeOwned;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    AgentInfo, HookProgram, LogFilter, PodLookup, PodSubject, ProgramLogRequest, Subject,
    command::Command,
    lease::{self, Lease},
};
use crate::{
    api::{self, Document, Kind},
    dataplane::Drift,
    http::{self, Exemption},
    model::{explain::Explanation, probe_service::Listeners},
    status::{Shared, Status},
    watch::{EventFilter, SubscribeError, Subscription, Watchers},
    workloads::{ClientNames, ClientQuery, SharedResolver},
};

/// Timeout of a command to the control loop.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers use.
#[derive(Clone)]
pub struct State {
    pub shared: Arc<Shared>,
    pub commands: mpsc::UnboundedSender<Command>,
    /// The kernel's ID of the program for each hook.
    pub programs: Vec<(&'static str, u32)>,
    pub watchers: Watchers,
    /// Names clients.
    pub names: SharedResolver,
}

type Refusal = (StatusCode, String);

/// A bound admin socket. The file is removed when this is dropped.
pub struct Server {
    listener: net::UnixListener,
    _file: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Server {
    /// Binds the socket, with mode 0600 from the start. A socket that an earlier agent left behind is replaced:
    /// this agent holds the lock on the pins, so that one does not run. Anything else at that path stays.
    ///
    /// # Errors
    /// When the folder cannot be created, something else is at that path, or the socket cannot be bound.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let bound = || -> io::Result<net::UnixListener> {
            if let Some(folder) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            remove_old(path)?;
            // The umask belongs to the process, which has only this thread yet.
            let before = umask(Mode::from_bits_truncate(0o177));
            let listener = net::UnixListener::bind(path);
            umask(before);
            let listener = listener?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener =
            bound().with_context(|| format!("cannot open the admin socket {}", path.display()))?;
        Ok(Self { listener, _file: SocketFile(path.to_owned()) })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the runtime cannot use the socket.
    pub async fn serve(self, state: State, stop: CancellationToken) -> anyhow::Result<()> {
        let router = Router::new()
            .route("/status", get(status))
            .route("/info", get(info))
            .route("/drift", get(drift))
            .route("/probe-service", post(add_probe_service))
            .route("/explain", post(explain))
            .route("/pod", post(look_up_pod))
            .route("/events", post(events))
            .route("/clients", post(clients))
            .route("/log-level", get(log_level).put(set_log_level))
            .route("/program-log", put(log_programs).delete(end_program_log))
            .with_state(state);
        let listener = UnixListener::from_std(self.listener).context("using the admin socket")?;
        http::serve(listener, router, stop).await;
        Ok(())
    }
}

/// Removes a socket of this user, and nothing else. Does not follow links.
fn remove_old(path: &Path) -> io::Result<()> {
    let old = match fs::symlink_metadata(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let own = nix::unistd::geteuid().as_raw();
    let what = if old.file_type().is_symlink() {
        "a symbolic link is in its place"
    } else if !old.file_type().is_socket() {
        "something that is no socket is in its place"
    } else if old.uid() != own {
        "a socket of another user is in its place"
    } else {
        return fs::remove_file(path);
    };
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{what}; remove it if nobody needs it"),
    ))
}

/// Reads the document of a request.
fn read<T: Kind + DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    api::read(body).map_err(|error| {
        (StatusCode::BAD_REQUEST, format!("the agent cannot read the request: {error}"))
    })
}

async fn status(extract::State(state): extract::State<State>) -> Json<Document<Status>> {
    Json(Document::new(state.shared.status()))
}

async fn info(extract::State(state): extract::State<State>) -> Json<Document<AgentInfo>> {
    let programs = state.programs.iter();
    let info = AgentInfo {
        programs: programs.map(|&(hook, id)| HookProgram { hook: hook.to_owned(), id }).collect(),
        alive: state.shared.is_alive(),
    };
    Json(Document::new(info))
}

async fn drift(
    extract::State(state): extract::State<State>,
) -> Result<Json<Document<Drift>>, Refusal> {
    answer(&state, |reply| Command::FindDrift { reply }).await
}

async fn explain(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Json<Document<Explanation>>, Refusal> {
    let subject: Subject = read(&body)?;
    answer(&state, |reply| Command::Explain { subject, reply }).await
}

async fn look_up_pod(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Json<Document<PodLookup>>, Refusal> {
    let PodSubject { pod } = read(&body)?;
    answer(&state, |reply| Command::LookUpPod { pod, reply }).await
}

async fn clients(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Json<Document<ClientNames>>, Refusal> {
    let ClientQuery { cgroups } = read(&body)?;
    let names = state.names.lock().await.names(&cgroups).await;
    Ok(Json(Document::new(names)))
}

async fn log_level(extract::State(state): extract::State<State>) -> Json<Document<LogFilter>> {
    Json(Document::new(logged(&state)))
}

fn logged(state: &State) -> LogFilter {
    let status = state.shared.status();
    LogFilter { filter: status.log_level, programs: status.program_log }
}

async fn log_programs(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Json<Document<LogFilter>>, Refusal> {
    change_program_log(&state, Some(read(&body)?)).await
}

async fn end_program_log(
    extract::State(state): extract::State<State>,
) -> Result<Json<Document<LogFilter>>, Refusal> {
    change_program_log(&state, None).await
}

async fn change_program_log(
    state: &State,
    request: Option<ProgramLogRequest>,
) -> Result<Json<Document<LogFilter>>, Refusal> {
    send(&state.commands, |reply| Command::LogPrograms { request, reply }).await?;
    Ok(Json(Document::new(logged(state))))
}

async fn set_log_level(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Json<Document<LogFilter>>, Refusal> {
    let LogFilter { filter, programs } = read(&body)?;
    if programs.is_some() {
        let error = "programs: cannot be set with the filter, but with PUT /program-log".to_owned();
        return Err((StatusCode::BAD_REQUEST, error));
    }
    state.shared.log_level().set(&filter).map_err(|error| (StatusCode::BAD_REQUEST, error))?;
    Ok(Json(Document::new(logged(&state))))
}

/// Documents, one on each line, until the client disconnects or the agent ends.
async fn events(
    extract::State(state): extract::State<State>,
    Extension(exemption): Extension<Exemption>,
    body: Bytes,
) -> Result<Body, Refusal> {
    let filter: EventFilter = read(&body)?;
    let unavailable = |error: SubscribeError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let Subscription { lines, end } =
        state.watchers.subscribe(filter).await.map_err(unavailable)?;
    exemption.until(end);
    Ok(Body::from_stream(lines))
}

async fn add_probe_service(
    extract::State(state): extract::State<State>,
    body: Bytes,
) -> Result<Body, Refusal> {
    let listeners: Listeners = read(&body)?;
    add_leased(state.commands, listeners).await.map(lease::body)
}

/// Adds a probe service to the maps. The server may drop this future at any await, when the client
/// disconnects; the task still runs to its end, so that a service that was added always gets a lease.
async fn add_leased(
    commands: mpsc::UnboundedSender<Command>,
    listeners: Listeners,
) -> Result<Lease, Refusal> {
    let added = tokio::spawn(async move {
        let service =
            send(&commands, |reply| Command::AddProbeService { listeners, reply }).await?;
        Ok(Lease::new(service, commands))
    });
    added.await.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
}

/// The reply of the control loop to a command.
async fn answer<T: Kind>(
    state: &State,
    command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
) -> Result<Json<Document<T>>, Refusal> {
    Ok(Json(Document::new(send(&state.commands, command).await?)))
}

/// Sends a command to the control loop and waits for the reply.
async fn send<T>(
    commands: &mpsc::UnboundedSender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
) -> Result<T, Refusal> {
    let unavailable = |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned());
    let (reply, received) = oneshot::channel();
    commands.send(command(reply)).map_err(|_| unavailable("the control loop has ended"))?;
    match tokio::time::timeout(TIMEOUT, received).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(reason))) => Err((StatusCode::CONFLICT, reason)),
        Ok(Err(_)) => Err(unavailable("the control loop has ended")),
        Err(_) => Err(unavailable("the control loop does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::model::probe_service::ProbeService;

    #[tokio::test]
    async fn a_probe_service_is_removed_when_its_client_disconnects_before_the_reply() {
        let (commands, mut received) = mpsc::unbounded_channel();
        let mut request = Box::pin(add_leased(commands, Listeners::default()));
        assert!((&mut request).now_or_never().is_none());
        let Some(Command::AddProbeService { reply, .. }) = received.recv().await else {
            panic!("no command to add a probe service")
        };
        reply.send(Ok(ProbeService::new(1, 7))).unwrap();
        drop(request);
        let removed = received.recv().await;
        assert!(
            matches!(removed, Some(Command::RemoveProbeService(ProbeService { number: 1, .. }))),
            "{removed:?}"
        );
    }
}
