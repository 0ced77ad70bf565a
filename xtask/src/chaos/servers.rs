//! The servers of all pods, in one thread. Each answers with its pod and its service.
//!
//! Every pod listens for every service, so that a misrouted connection gets an answer as well.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, SockaddrStorage, recvfrom, sendto},
    },
};
use sockline_testbed::Pod;

use super::oracle::{PodId, ServiceId};

/// The pods' port for service 0. The other services follow.
pub(super) const FIRST_PORT: u16 = 8000;

pub(super) fn port_of(service: ServiceId) -> u16 {
    FIRST_PORT + u16::try_from(service).expect("there are few services")
}

/// Parses a server's answer.
pub(super) fn parse_who(text: &str) -> Option<(PodId, ServiceId)> {
    let (pod, service) = text.trim_end().split_once(':')?;
    Some((pod.parse().ok()?, service.parse().ok()?))
}

enum Socket {
    Listener(TcpListener),
    Connection(TcpStream),
    Udp(UdpSocket),
}

struct Entry {
    pod: PodId,
    service: ServiceId,
    socket: Socket,
}

/// All servers. They end when dropped.
pub(super) struct Servers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    services: usize,
}

struct Shared {
    epoll: Epoll,
    entries: Mutex<Entries>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Entries {
    next: u64,
    all: HashMap<u64, Entry>,
}

impl Servers {
    pub(super) fn start(services: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
        let shared =
            Arc::new(Shared { epoll, entries: Mutex::default(), stop: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("servers".into()).spawn(move || serving.run())?;
        Ok(Self { shared, thread: Some(thread), services })
    }

    /// Starts the servers of a pod.
    pub(super) fn open(&self, id: PodId, pod: &Pod) -> Result<()> {
        let sockets = pod.run(|| -> io::Result<Vec<(ServiceId, Socket)>> {
            let mut sockets = Vec::new();
            for service in 0..self.services {
                let at = (Ipv6Addr::UNSPECIFIED, port_of(service));
                let (tcp, udp) = (TcpListener::bind(at)?, UdpSocket::bind(at)?);
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                sockets.push((service, Socket::Listener(tcp)));
                sockets.push((service, Socket::Udp(udp)));
            }
            Ok(sockets)
        });
        let sockets = sockets.with_context(|| format!("starting the servers of pod {id}"))?;
        for (service, socket) in sockets {
            self.shared.add(Entry { pod: id, service, socket })?;
        }
        Ok(())
    }

    /// Ends the servers of a pod with all their connections.
    pub(super) fn close(&self, pod: PodId) {
        self.shared.lock().all.retain(|_, entry| entry.pod != pod);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: Entry) -> io::Result<()> {
        let mut entries = self.lock();
        entries.next += 1;
        let token = entries.next;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        match &entry.socket {
            Socket::Listener(socket) => self.epoll.add(socket.as_fd(), event)?,
            Socket::Connection(socket) => self.epoll.add(socket.as_fd(), event)?,
            Socket::Udp(socket) => self.epoll.add(socket.as_fd(), event)?,
        }
        entries.all.insert(token, entry);
        Ok(())
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        while !self.stop.load(Ordering::Acquire) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(100_u8)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return eprintln!("chaos: the servers ended: {error}"),
            };
            for event in &events[..count] {
                self.serve(event.data());
            }
        }
    }

    fn serve(&self, token: u64) {
        let mut entries = self.lock();
        // Its pod may have ended since.
        let Some(entry) = entries.all.get_mut(&token) else { return };
        let (pod, service) = (entry.pod, entry.service);
        match &mut entry.socket {
            Socket::Listener(listener) => {
                let Ok((stream, _)) = listener.accept() else { return };
                drop(entries);
                if stream.set_nonblocking(true).is_ok()
                    && (&stream).write_all(format!("{pod}:{service}\n").as_bytes()).is_ok()
                {
                    let socket = Socket::Connection(stream);
                    let _ = self.add(Entry { pod, service, socket });
                }
            }
            Socket::Connection(stream) => {
                let mut buffer = [0; 512];
                let continues = match stream.read(&mut buffer) {
                    Ok(0) => false,
                    Ok(length) => {
                        let mut answer = format!("{pod}:{service} ").into_bytes();
                        answer.extend_from_slice(&buffer[..length]);
                        stream.write_all(&answer).is_ok()
                    }
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
                if !continues {
                    entries.all.remove(&token);
                }
            }
            Socket::Udp(socket) => {
                let mut buffer = [0; 512];
                let fd = socket.as_raw_fd();
                while let Ok((length, Some(peer))) = recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                    let answer =
                        [format!("{pod}:{service} ").as_bytes(), &buffer[..length]].concat();
                    // The client may have gone.
                    let _ = sendto(fd, &answer, &peer, MsgFlags::empty());
                }
            }
        }
    }
}
