//! HTTP for clients that may be slow, greedy or hostile.
//!
//! What a client can hold is bounded, and so is for how long. When the connections are used up, the
//! oldest one is closed for a new one: a client that opens all it can closes its own, and one that asks
//! a question has its answer long before it is the oldest.

use std::{collections::VecDeque, io, pin::pin, time::Duration};

use axum::{Router, extract::DefaultBodyLimit};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// Until the head of a request must be there, also between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last; a request that is under way then may still end.
const LASTING: Duration = Duration::from_secs(30);
/// How long the end of a connection may take: a client that does not read its answer.
const ENDING: Duration = Duration::from_secs(5);
/// Bytes of the head of a request: its line and its headers.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;
/// Bytes of the body of a request.
const BODY_BYTES: usize = 64 << 10;
/// After a connection could not be accepted, such as for want of file descriptors.
const RECOVERY: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection; `None` is one that is turned away.
    fn accept(&self) -> impl Future<Output = io::Result<Option<Self::Stream>>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Option<Self::Stream>> {
        Self::accept(self).await.map(|(stream, _)| Some(stream))
    }
}

/// For root and for the user that the agent runs as, whatever the file's mode says.
impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Option<Self::Stream>> {
        let (stream, _) = Self::accept(self).await?;
        let peer = stream.peer_cred()?;
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() == 0 || peer.uid() == own {
            return Ok(Some(stream));
        }
        tracing::debug!(uid = peer.uid(), pid = peer.pid(), "turned away from the admin socket");
        Ok(None)
    }
}

/// Serves until `stop`.
pub async fn serve<L: Listener>(listener: L, router: Router, stop: CancellationToken) {
    let router = router.layer(DefaultBodyLimit::max(BODY_BYTES));
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                sleep(RECOVERY).await;
                continue;
            }
        };
        open.retain(|task| !task.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(serve_connection(stream, router.clone(), stop.clone())));
    }
    // What is under way may end.
    let _ = timeout(ENDING, async { while tasks.join_next().await.is_some() {} }).await;
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let is_over = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(LASTING) => None,
    };
    let ended = match is_over {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(ENDING, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
