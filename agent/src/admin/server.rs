//! The agent's end of the admin socket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use axum::{Json, Router, extract::State, routing::get};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::status::{Shared, Status};

/// A bound admin socket; the file goes with it.
pub struct Server {
    listener: UnixListener,
    _file: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Server {
    /// Binds the socket, readable by root only. A file that an agent left behind is replaced: who
    /// gets here holds the lock on the pins.
    ///
    /// # Errors
    /// When the folder cannot be made or the socket cannot be bound.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let bound = || -> io::Result<UnixListener> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            Ok(listener)
        };
        let listener =
            bound().with_context(|| format!("cannot open the admin socket {}", path.display()))?;
        Ok(Self { listener, _file: SocketFile(path.to_owned()) })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
        let router = Router::new().route("/status", get(status)).with_state(shared);
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("serving the admin socket")
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    Json(shared.status())
}
