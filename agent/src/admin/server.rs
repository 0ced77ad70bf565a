//! The agent's end of the admin socket.

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
    Json, Router,
    body::Body,
    extract,
    http::StatusCode,
    routing::{get, post},
};
use nix::sys::stat::{Mode, umask};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    Myself,
    command::Command,
    lease::{self, Lease},
};
use crate::{
    dataplane::Drift,
    http,
    model::test_service::Listeners,
    status::{Shared, Status},
};

/// How long the control loop may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the answers come from.
#[derive(Clone)]
pub struct State {
    pub shared: Arc<Shared>,
    pub commands: mpsc::UnboundedSender<Command>,
    /// The kernel's id of the program of each hook.
    pub programs: Vec<(&'static str, u32)>,
}

type Refusal = (StatusCode, String);

/// A bound admin socket; the file goes with it.
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
    /// Binds the socket, for root only from its first moment on. One that an agent left behind is
    /// replaced: who gets here holds the lock on the pins. Anything else in its place is nobody's to
    /// remove.
    ///
    /// # Errors
    /// When the folder cannot be made, something else is in its place, or the socket cannot be bound.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let bound = || -> io::Result<net::UnixListener> {
            if let Some(folder) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            remove_old(path)?;
            // The mode that a socket is made with is the process's to say; it has one thread here.
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
    /// When the runtime does not take the socket.
    pub async fn serve(self, state: State, stop: CancellationToken) -> anyhow::Result<()> {
        let router = Router::new()
            .route("/status", get(status))
            .route("/self", get(myself))
            .route("/compare", post(compare))
            .route("/test-service", post(test_service))
            .with_state(state);
        let listener = UnixListener::from_std(self.listener).context("using the admin socket")?;
        http::serve(listener, router, stop).await;
        Ok(())
    }
}

/// Removes a socket of this user, and only that: a link is not followed.
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

async fn status(extract::State(state): extract::State<State>) -> Json<Status> {
    Json(state.shared.status())
}

async fn myself(extract::State(state): extract::State<State>) -> Json<Myself> {
    Json(Myself {
        programs: state.programs.iter().map(|&(hook, id)| (hook.to_owned(), id)).collect(),
        alive: state.shared.is_alive(),
    })
}

async fn compare(extract::State(state): extract::State<State>) -> Result<Json<Drift>, Refusal> {
    ask(&state.commands, |reply| Command::Compare { reply }).await.map(Json)
}

async fn test_service(
    extract::State(state): extract::State<State>,
    Json(listeners): Json<Listeners>,
) -> Result<Body, Refusal> {
    place(state.commands, listeners).await.map(lease::body)
}

/// Has a test service put into the maps, for as long as it is leased. The server forgets about a
/// request whose client is gone, at any moment: in a task of its own, what was put there cannot get
/// lost before there is a lease.
async fn place(
    commands: mpsc::UnboundedSender<Command>,
    listeners: Listeners,
) -> Result<Lease, Refusal> {
    let placed = tokio::spawn(async move {
        let service = ask(&commands, |reply| Command::PutTest { listeners, reply }).await?;
        Ok(Lease::new(service, commands))
    });
    placed.await.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?
}

/// Asks the control loop.
async fn ask<T>(
    commands: &mpsc::UnboundedSender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
) -> Result<T, Refusal> {
    let unavailable = |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned());
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).map_err(|_| unavailable("the control loop has ended"))?;
    match tokio::time::timeout(PATIENCE, answer).await {
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
    use crate::model::test_service::TestService;

    #[tokio::test]
    async fn a_test_service_is_removed_when_its_client_goes_before_it_hears_of_it() {
        let (commands, mut asked) = mpsc::unbounded_channel();
        let mut request = Box::pin(place(commands, Listeners::default()));
        assert!((&mut request).now_or_never().is_none());
        let Some(Command::PutTest { reply, .. }) = asked.recv().await else {
            panic!("not asked for a test service")
        };
        reply.send(Ok(TestService::new(1, 7))).unwrap();
        drop(request);
        let removed = asked.recv().await;
        assert!(
            matches!(removed, Some(Command::RemoveTest(TestService { number: 1, .. }))),
            "{removed:?}"
        );
    }
}
