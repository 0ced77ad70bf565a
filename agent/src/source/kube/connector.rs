//! TCP connections to the API server: not translated by the node's own programs, and closed soon after the peer is gone.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tower::Service;

/// Timeout of the TCP handshake: the second retransmission of a SYN is after 3 seconds.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// When keepalive probes begin (`TCP_KEEPIDLE`), and how often they are sent (`TCP_KEEPINTVL`).
const IDLE: Duration = Duration::from_secs(10);
const PROBE: Duration = Duration::from_secs(5);
/// A peer that acknowledges neither data nor probes for this long is gone. With
/// `TCP_USER_TIMEOUT` the number of probes does not count (`tcp_keepalive_timer` in
/// net/ipv4/tcp_timer.c, since Linux 2.6.37), so a lost machine is noticed after 20 to 25 seconds.
const GONE: Duration = Duration::from_secs(20);

/// Lets a socket's `connect()` bypass the node's own programs. What the agent needs to recover must not depend on what it
/// programmed.
pub trait ConnectBypass: Send + Sync {
    /// Calls `connect` for the socket with this cookie (`SO_COOKIE`). It does not block.
    ///
    /// # Errors
    /// Those of `connect`.
    fn connect(&self, cookie: u64, connect: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
}

/// Makes the connections below TLS, to the host and port of a URL.
#[derive(Clone)]
pub(super) struct TcpConnector(pub(super) Arc<dyn ConnectBypass>);

impl Service<Uri> for TcpConnector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let bypass = Arc::clone(&self.0);
        Box::pin(async move { Ok(TokioIo::new(dial(&*bypass, &url).await?)) })
    }
}

async fn dial(bypass: &dyn ConnectBypass, url: &Uri) -> io::Result<TcpStream> {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let https = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let mut error = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in lookup_host((host, port)).await? {
        match timeout(HANDSHAKE, connect(bypass, address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(failed)) => error = failed,
            Err(_) => error = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(error)
}

async fn connect(bypass: &dyn ConnectBypass, address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(PROBE))?;
    socket.set_tcp_user_timeout(Some(GONE))?;
    let cookie = socket.cookie()?;
    let connected = bypass.connect(cookie, &mut || socket.connect(&address.into()));
    match connected {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        connected => connected?,
    }
    let stream = TcpStream::from_std(socket.into())?;
    // Writable once the handshake is over, also when it failed.
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        sync::Mutex,
    };

    use socket2::SockRef;

    use super::*;

    /// Remembers the cookies it was asked for.
    #[derive(Default)]
    struct Cookies(Mutex<Vec<u64>>);

    impl ConnectBypass for Cookies {
        fn connect(
            &self,
            cookie: u64,
            connect: &mut dyn FnMut() -> io::Result<()>,
        ) -> io::Result<()> {
            self.0.lock().unwrap().push(cookie);
            connect()
        }
    }

    #[tokio::test]
    async fn a_connection_is_announced_by_its_cookie_and_ends_with_its_peer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let cookies = Cookies::default();
        let stream = dial(&cookies, &url).await.unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(*cookies.0.lock().unwrap(), [socket.cookie().unwrap()]);
        assert!(socket.keepalive().unwrap());
        let longest = socket.tcp_user_timeout().unwrap().unwrap() + PROBE;
        assert!(longest <= Duration::from_secs(30), "{longest:?}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error() {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let url: Uri = format!("http://127.0.0.1:{port}/").parse().unwrap();
        let error = dial(&Cookies::default(), &url).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
