//! An HTTP server for clients that are not trusted.
//!
//! Connections are limited in number, size and duration. At the maximum number, a new connection closes the
//! oldest one: a client that opens many closes its own, and a normal request ends long before its connection
//! is the oldest. `hyper-util`'s `GracefulShutdown` cannot close the oldest connection. A handler can exempt its
//! connection from both limits ([`Exemption`]), and limits the number of those itself.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Extension, Router, extract::DefaultBodyLimit};
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
use tracing::{Instrument as _, Span};

/// Maximum number of connections without an exemption.
const MAX_CONNECTIONS: usize = 32;
/// Maximum duration of a connection without an exemption. A request that runs then may still end.
const MAX_DURATION: Duration = Duration::from_secs(30);
/// Timeout for the head of a request, also between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the last request, in case the client does not read its response.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of the head of a request: its line and its headers.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Maximum bytes of the body of a request.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Pause after an error of `accept`, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with the span for its log lines; `None` if it was rejected.
    fn accept(&self) -> impl Future<Output = io::Result<Option<(Self::Stream, Span)>>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Option<(Self::Stream, Span)>> {
        let (stream, peer) = Self::accept(self).await?;
        Ok(Some((stream, tracing::error_span!("connection", %peer))))
    }
}

/// Accepts root and the user that the agent runs as, regardless of the mode of the socket's file.
impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Option<(Self::Stream, Span)>> {
        let (stream, _) = Self::accept(self).await?;
        let peer = stream.peer_cred()?;
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() == 0 || peer.uid() == own {
            let span = tracing::error_span!("connection", uid = peer.uid(), pid = peer.pid());
            return Ok(Some((stream, span)));
        }
        tracing::debug!(
            uid = peer.uid(),
            pid = peer.pid(),
            "rejected a client of the admin socket"
        );
        Ok(None)
    }
}

/// Exempts the connection of a request from the limits of number and duration. Handlers get it as an [`Extension`].
#[derive(Debug, Clone, Default)]
pub struct Exemption(Arc<OnceLock<CancellationToken>>);

impl Exemption {
    /// The exemption lasts until `end`. A connection gets one only.
    pub fn until(&self, end: CancellationToken) {
        let _ = self.0.set(end);
    }

    fn is_valid(&self) -> bool {
        self.0.get().is_some_and(|end| !end.is_cancelled())
    }

    async fn over(&self) {
        if let Some(end) = self.0.get() {
            end.cancelled().await;
        }
    }
}

/// Serves until `stop`.
pub async fn serve<L: Listener>(listener: L, router: Router, stop: CancellationToken) {
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<(AbortHandle, Exemption)> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, span) = match accepted {
            Ok(Some(connection)) => connection,
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        open.retain(|(task, _)| !task.is_finished());
        let limited = open.iter().enumerate().filter(|(_, (_, exemption))| !exemption.is_valid());
        let limited: Vec<usize> = limited.map(|(place, _)| place).collect();
        if limited.len() >= MAX_CONNECTIONS
            && let Some((oldest, _)) = open.remove(limited[0])
        {
            oldest.abort();
        }
        let exemption = Exemption::default();
        let router = router.clone().layer(Extension(exemption.clone()));
        let connection = serve_connection(stream, router, exemption.clone(), stop.clone());
        open.push_back((tasks.spawn(connection.instrument(span)), exemption));
    }
    // Requests that run may end.
    let _ = timeout(END_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    exemption: Exemption,
    stop: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let is_over = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = async {
            sleep(MAX_DURATION).await;
            exemption.over().await;
        } => None,
    };
    let ended = match is_over {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(END_TIMEOUT, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
