//! The stand-in on a TCP port: HTTP/1.1, a thread for each connection.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Answer, Api, Step, Watch};

/// How often a waiting connection checks whether its client is gone.
const LOOK: Duration = Duration::from_millis(50);

/// A running server; it closes all connections when dropped.
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    api: Api,
    began: Instant,
    closed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// Serves on a listener; its network namespace is the server's.
    ///
    /// # Errors
    /// When the listener cannot be used twice.
    pub fn start(api: &Api, listener: TcpListener) -> io::Result<Self> {
        let (address, accept) = (listener.local_addr()?, listener.try_clone()?);
        let shared = Arc::new(Shared {
            api: api.clone(),
            began: Instant::now(),
            closed: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = accept.accept() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || shared.connection(&stream));
            }
        });
        Ok(Self { address, listener, shared, accepting: Some(accepting) })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig for this server into a folder.
    ///
    /// # Errors
    /// Those of writing.
    pub fn kubeconfig(&self, folder: &Path) -> io::Result<PathBuf> {
        kubeconfig(self.address, folder)
    }
}

/// Writes a kubeconfig for a server without TLS into a folder.
pub(super) fn kubeconfig(server: SocketAddr, folder: &Path) -> io::Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let path = folder.join("kubeconfig");
    fs::write(&path, config.to_string())?;
    Ok(path)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.shared.connections().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection. Its errors mean that the client is gone.
    fn connection(&self, stream: &TcpStream) {
        let Ok(kept) = stream.try_clone() else { return };
        {
            let mut connections = self.connections();
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            connections.push(kept);
        }
        let _ = self.requests(stream);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn requests(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some((target, headers)) = head(&mut reader)? {
            match self.api.answer(&target, &headers, self.began.elapsed()) {
                Answer::Whole { status, retry_after, body } => {
                    let retry = retry_after
                        .map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
                    let length = body.len();
                    write!(
                        &*stream,
                        "HTTP/1.1 {status} {}\r\nCache-Control: no-cache, private\r\n\
                         Content-Type: application/json\r\n{retry}Content-Length: {length}\r\n\
                         \r\n{body}",
                        reason(status)
                    )?;
                }
                Answer::Watch(watch) => {
                    if !self.watch(stream, *watch)? {
                        return Ok(());
                    }
                }
                Answer::Hang => {
                    while self.is_wanted(stream)? {
                        thread::sleep(LOOK);
                    }
                }
                Answer::Close => return Ok(()),
            }
        }
        Ok(())
    }

    /// Serves a watch; `false` if the connection must be broken.
    fn watch(&self, mut stream: &TcpStream, mut watch: Watch) -> io::Result<bool> {
        let began = Instant::now();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nCache-Control: no-cache, private\r\n\
              Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        loop {
            match watch.poll(&mut Context::from_waker(&waker), began.elapsed()) {
                Poll::Ready(Step::Send(bytes)) => {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(&bytes);
                    chunk.extend_from_slice(b"\r\n");
                    stream.write_all(&chunk)?;
                }
                Poll::Ready(Step::End) => {
                    stream.write_all(b"0\r\n\r\n")?;
                    return Ok(true);
                }
                Poll::Ready(Step::Break) => return Ok(false),
                Poll::Pending => {
                    if !self.is_wanted(stream)? {
                        return Ok(false);
                    }
                    let wait = watch.wake_at().saturating_sub(began.elapsed());
                    thread::park_timeout(wait.clamp(Duration::from_millis(1), LOOK));
                }
            }
        }
    }

    /// Both the client and the server are still there.
    fn is_wanted(&self, stream: &TcpStream) -> io::Result<bool> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(false);
        }
        stream.set_read_timeout(Some(Duration::from_micros(1)))?;
        let there = match stream.peek(&mut [0]) {
            Ok(bytes) => bytes > 0,
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            }
        };
        stream.set_read_timeout(None)?;
        Ok(there)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The target and the headers of the next request; `None` when there is none.
type Head = Option<(String, Vec<(String, String)>)>;

fn head(reader: &mut BufReader<TcpStream>) -> io::Result<Head> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(target) = line.split(' ').nth(1).map(str::to_owned) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Ok(Some((target, headers)));
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        410 => "Gone",
        429 => "Too Many Requests",
        _ => "Refused",
    }
}
