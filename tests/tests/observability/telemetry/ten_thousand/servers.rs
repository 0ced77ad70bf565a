//! Servers that do what each request asks for, and count by backend.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
    thread,
};

use nix::sys::socket::{Shutdown as NixShutdown, shutdown};
use sockline_testbed::{Pod, Task, UdpServer};

use super::{
    super::reset,
    expected::{ANSWER, REQUEST, Way},
    large,
};

/// What the servers of a backend did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfBackend {
    pub(super) connections: u64,
    pub(super) unanswered: u64,
    /// By clients.
    pub(super) sent: u64,
    /// By clients.
    pub(super) received: u64,
}

type Counts = Arc<Mutex<BTreeMap<SocketAddr, OfBackend>>>;

/// In each of some pods.
pub(super) struct Servers {
    listening: Vec<(Arc<TcpListener>, Option<Task<()>>)>,
    dns: Vec<UdpServer>,
    counts: Counts,
    pods: Vec<Pod>,
}

impl Servers {
    pub(super) fn start(pods: Vec<Pod>, ports: &[u16], dns: u16) -> Self {
        let counts = Counts::default();
        let mut listening = Vec::new();
        for pod in &pods {
            for port in ports {
                let listener = pod.run(|| TcpListener::bind(("::", *port))).unwrap();
                let listener = Arc::new(listener);
                let (accepting, counts) = (Arc::clone(&listener), Arc::clone(&counts));
                let task = pod.spawn(move || serve(&accepting, &counts)).unwrap();
                listening.push((listener, Some(task)));
            }
        }
        let dns = pods.iter().map(|pod| pod.udp_server(dns).unwrap()).collect();
        Self { listening, dns, counts, pods }
    }

    /// By the backend's address.
    pub(super) fn counts(&self) -> BTreeMap<SocketAddr, OfBackend> {
        self.counts.lock().unwrap().clone()
    }

    /// How many datagrams came to each pod, by its addresses.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (&[IpAddr], u64)> {
        let hits = self.dns.iter().map(|server| server.hits() as u64);
        self.pods.iter().map(Pod::addresses).zip(hits)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (listener, task) in &mut self.listening {
            // On Linux this ends `accept`.
            let _ = shutdown(listener.as_raw_fd(), NixShutdown::Both);
            if let Some(task) = task.take()
                && !thread::panicking()
            {
                task.join();
            }
        }
    }
}

fn serve(listener: &TcpListener, counts: &Counts) {
    thread::scope(|connections| {
        while let Ok((stream, _)) = listener.accept() {
            connections.spawn(move || {
                let local = stream.local_addr().unwrap();
                let backend = SocketAddr::new(local.ip().to_canonical(), local.port());
                let (sent, received) = handle(stream).unwrap();
                let mut counts = counts.lock().unwrap();
                let of_backend = counts.entry(backend).or_default();
                of_backend.connections += 1;
                of_backend.sent += sent as u64;
                of_backend.received += received as u64;
                of_backend.unanswered += u64::from(sent > 0 && received == 0);
            });
        }
    });
}

/// Returns the bytes that it read and wrote.
fn handle(mut stream: TcpStream) -> io::Result<(usize, usize)> {
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request)?;
    match Way::of(request[0]).ok_or(io::ErrorKind::InvalidData)? {
        Way::ClientCloses | Way::ClientResets | Way::Unread | Way::InFlight => {
            stream.write_all(&[0; ANSWER])?;
            Ok((REQUEST + read_to_end(&stream), ANSWER))
        }
        Way::ServerCloses | Way::BothClose => {
            stream.write_all(&[0; ANSWER])?;
            Ok((REQUEST, ANSWER))
        }
        Way::ServerResets => {
            reset(stream);
            Ok((REQUEST, 0))
        }
        Way::HalfClosed => {
            let more = read_to_end(&stream);
            stream.write_all(&[0; ANSWER])?;
            stream.shutdown(Shutdown::Write)?;
            Ok((REQUEST + more, ANSWER))
        }
        Way::Unanswered => Ok((REQUEST + read_to_end(&stream), 0)),
        Way::Download => {
            large::send(&stream)?;
            Ok((REQUEST + read_to_end(&stream), large::BYTES))
        }
    }
}

/// Until the client has closed or reset.
fn read_to_end(stream: &TcpStream) -> usize {
    let mut sum = 0;
    while let Ok(count @ 1..) = large::discard_some(stream, large::CHUNK) {
        sum += count;
    }
    sum
}
