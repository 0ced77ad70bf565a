//! Small clients that report what they saw. They run in the namespace and cgroup of the calling thread: use
//! them inside [`Ns::run`], or the methods of [`Ns`] with the same name.

use std::{
    io::{self, BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
};

use crate::{
    Ns,
    wait::{ANSWER_TIMEOUT, patience},
};

/// What a TCP client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The name of the pod that answered.
    pub who: String,
    /// What `getpeername` says.
    pub peer: SocketAddr,
    /// What `getsockname` says.
    pub local: SocketAddr,
}

/// Connects to a [`crate::TcpServer`], reads its name, and closes; waits until the server has closed
/// too, so that no packet of it comes later.
///
/// # Errors
/// Those of `connect` and `read`, with their OS error kept; `TimedOut` or `WouldBlock` after
/// [`ANSWER_TIMEOUT`] of silence.
pub fn tcp_ask(address: SocketAddr) -> io::Result<Reply> {
    let stream = TcpStream::connect_timeout(&address, patience(ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT)))?;
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut who = String::new();
    let mut reader = BufReader::new(&stream);
    reader.read_line(&mut who)?;
    if who.pop() != Some('\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{address} closed before it said its name"),
        ));
    }
    stream.shutdown(Shutdown::Write)?;
    reader.read_to_end(&mut Vec::new())?;
    Ok(Reply { who, peer, local })
}

/// What a UDP client got back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpReply {
    /// The name of the pod that answered.
    pub who: String,
    /// The payload it sent back.
    pub payload: String,
    /// The sender's address as `recvfrom` gave it.
    pub from: SocketAddr,
}

/// A UDP socket for talking to [`crate::UdpServer`]s.
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// A socket that is not connected, of the family of `like`.
    ///
    /// # Errors
    /// Those of `socket` and `bind`.
    pub fn unconnected(like: IpAddr) -> io::Result<Self> {
        let any = match like {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(patience(ANSWER_TIMEOUT)))?;
        Ok(Self { socket })
    }

    /// A connected socket.
    ///
    /// # Errors
    /// Those of `socket`, `bind` and `connect`.
    pub fn connected(address: SocketAddr) -> io::Result<Self> {
        let client = Self::unconnected(address.ip())?;
        client.socket.connect(address)?;
        Ok(client)
    }

    /// Sends with `sendto` and waits for one answer.
    ///
    /// # Errors
    /// Those of `sendto` and `recvfrom`; `WouldBlock` after [`ANSWER_TIMEOUT`] of silence.
    pub fn ask_to(&self, address: SocketAddr, payload: &str) -> io::Result<UdpReply> {
        self.socket.send_to(payload.as_bytes(), address)?;
        self.receive()
    }

    /// Sends with `send` on a connected socket and waits for one answer.
    ///
    /// # Errors
    /// Those of `send` and `recvfrom`; `WouldBlock` after [`ANSWER_TIMEOUT`] of silence.
    pub fn ask(&self, payload: &str) -> io::Result<UdpReply> {
        self.socket.send(payload.as_bytes())?;
        self.receive()
    }

    /// Waits for one more answer.
    ///
    /// # Errors
    /// Those of `recvfrom`, and `InvalidData` for what no [`crate::UdpServer`] sends.
    pub fn receive(&self) -> io::Result<UdpReply> {
        let mut buffer = [0; 2048];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let (who, payload) = text.split_once(':').ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{from} answered {text:?}"))
        })?;
        Ok(UdpReply { who: who.to_owned(), payload: payload.to_owned(), from })
    }

    /// The socket, for what is not covered here.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

impl Ns {
    /// [`tcp_ask`] from in here.
    ///
    /// # Errors
    /// Those of [`tcp_ask`].
    pub fn tcp_ask(&self, address: SocketAddr) -> io::Result<Reply> {
        self.run(|| tcp_ask(address))
    }

    /// One datagram and its answer, from a fresh socket that is not connected.
    ///
    /// # Errors
    /// Those of [`UdpClient`].
    pub fn udp_ask(&self, address: SocketAddr, payload: &str) -> io::Result<UdpReply> {
        self.run(|| UdpClient::unconnected(address.ip())?.ask_to(address, payload))
    }
}
