//! Small servers that answer with their pod's name and record their clients.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::{
    errno::Errno,
    sys::socket::{Shutdown as NixShutdown, SockaddrStorage, recvfrom, shutdown},
};

use crate::{Ns, Task, to_std};

/// The clients, in order. Mapped IPv4 addresses of dual-stack sockets are converted to IPv4.
#[derive(Default)]
struct Guests(Mutex<Vec<SocketAddr>>);

impl Guests {
    fn add(&self, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
    }

    fn all(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends its pod's name and a newline, then echoes until the client closes. Stops when dropped, and closes
/// all connections.
pub struct TcpServer {
    port: u16,
    shared: Arc<TcpShared>,
    task: Option<Task<()>>,
}

struct TcpShared {
    listener: TcpListener,
    guests: Guests,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl TcpServer {
    /// The address that it listens at; the kernel chooses port 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections accepted so far.
    pub fn hits(&self) -> usize {
        self.peers().len()
    }

    /// The clients' addresses, in order.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.guests.all()
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // On Linux this ends `accept`, which closing would not.
        let _ = shutdown(self.shared.listener.as_raw_fd(), NixShutdown::Both);
        if let Some(task) = self.task.take() {
            task.join();
        }
    }
}

impl TcpShared {
    fn serve(&self, name: &str) {
        thread::scope(|connections| {
            for id in 0.. {
                let (mut stream, peer) = match self.listener.accept() {
                    Ok(accepted) => accepted,
                    // A client that closed before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    // The listener was shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                    Err(error) => {
                        eprintln!("testbed: the server of {name} ended: {error}");
                        break;
                    }
                };
                self.guests.add(peer);
                let Ok(clone) = stream.try_clone() else { continue };
                self.open_streams().insert(id, clone);
                connections.spawn(move || {
                    let _ = greet_and_echo(&mut stream, name);
                    self.open_streams().remove(&id);
                });
            }
            for stream in self.open_streams().values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn open_streams(&self) -> std::sync::MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn greet_and_echo(stream: &mut TcpStream, name: &str) -> io::Result<()> {
    stream.write_all(format!("{name}\n").as_bytes())?;
    io::copy(&mut stream.try_clone()?, stream)?;
    // Explicit, because the server's own clone is still open.
    stream.shutdown(Shutdown::Both)
}

/// Answers each datagram with `<pod>:<payload>`. Stops when dropped.
pub struct UdpServer {
    port: u16,
    socket: Arc<UdpSocket>,
    guests: Arc<Guests>,
    task: Option<Task<()>>,
}

impl UdpServer {
    /// The address that it listens at; the kernel chooses port 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Datagrams received so far.
    pub fn hits(&self) -> usize {
        self.peers().len()
    }

    /// The senders' addresses, in order.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.guests.all()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        // Returns ENOTCONN, but wakes the reader, which then gets an empty read.
        let _ = shutdown(self.socket.as_raw_fd(), NixShutdown::Both);
        if let Some(task) = self.task.take() {
            task.join();
        }
    }
}

impl Ns {
    /// Starts a TCP server on all addresses of both families; port 0 means any.
    ///
    /// # Errors
    /// Those of `bind`, and of starting a thread.
    pub fn tcp_server(&self, port: u16) -> io::Result<TcpServer> {
        let listener = self.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(TcpShared { listener, guests: Guests::default(), open: Mutex::default() });
        let (server, name) = (Arc::clone(&shared), self.name().to_owned());
        let task = self.spawn(move || server.serve(&name))?;
        Ok(TcpServer { port, shared, task: Some(task) })
    }

    /// Starts a UDP server on all addresses of both families; port 0 means any.
    ///
    /// # Errors
    /// Those of `bind`, and of starting a thread.
    pub fn udp_server(&self, port: u16) -> io::Result<UdpServer> {
        let socket = Arc::new(self.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?);
        let port = socket.local_addr()?.port();
        let guests = Arc::new(Guests::default());
        let task = self.spawn({
            let (socket, guests, name) =
                (Arc::clone(&socket), Arc::clone(&guests), self.name().to_owned());
            move || answer(&socket, &guests, &name)
        })?;
        Ok(UdpServer { port, socket, guests, task: Some(task) })
    }
}

fn answer(socket: &UdpSocket, guests: &Guests, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        // Not the standard library's `recv_from`: it panics if a socket that was shut down returns no
        // address.
        let heard = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer);
        match heard.map(|(length, from)| (length, from.and_then(|from| to_std(&from).ok()))) {
            Ok((_, None)) => return,
            Ok((length, Some(peer))) => {
                guests.add(peer);
                let mut reply = format!("{name}:").into_bytes();
                reply.extend_from_slice(&buffer[..length]);
                // The client has gone; the server continues.
                let _ = socket.send_to(&reply, peer);
            }
            // An ICMP error about an earlier answer.
            Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
