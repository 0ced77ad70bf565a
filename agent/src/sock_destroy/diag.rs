//! The kernel's socket monitoring over netlink (`sock_diag(7)`): which sockets a network namespace
//! has, and closing one of them.
//!
//! Uses three structures of `linux/inet_diag.h`, and `struct tcp_info` of `linux/tcp.h`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use nix::sys::socket::SockProtocol;
use sockline_ebpf::frontend::Protocol;

use crate::netlink::{Netlink, Request, attribute, field};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// `struct inet_diag_sockid`.
const ID: usize = 48;

/// States of the kernel's `net/tcp_states.h`; a UDP socket with a peer is in the first.
pub const ESTABLISHED: u8 = 1;
pub const SYN_SENT: u8 = 2;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;

/// All that an application may still hold and that leads to a peer.
const CONNECTIONS: u32 = !(1 << LISTEN | 1 << CLOSE | 1 << TIME_WAIT | 1 << NEW_SYN_RECV);

/// The length of `struct inet_diag_msg`; attributes follow.
const MESSAGE: usize = 72;
/// The attribute that is a `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;

/// A socket as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiagSocket {
    pub family: u8,
    pub protocol: Protocol,
    pub state: u8,
    /// What the kernel finds it by, cookie included (`struct inet_diag_sockid`).
    id: [u8; ID],
}

impl DiagSocket {
    pub fn cookie(&self) -> u64 {
        // Two words, the low one first (`sock_diag_save_cookie`).
        let word = |at: usize| u64::from(u32::from_ne_bytes(field(&self.id, at)));
        word(40) | word(44) << 32
    }

    /// In host byte order.
    #[cfg(test)]
    pub fn local_port(&self) -> u16 {
        u16::from_be_bytes(field(&self.id, 0))
    }

    /// The peer's address (IPv4 also for a mapped one) and port; `None` if it is not connected.
    pub fn peer(&self) -> Option<(IpAddr, u16)> {
        let port = u16::from_be_bytes(field(&self.id, 2));
        let has_peer = port != 0 && (self.protocol != Protocol::Udp || self.state == ESTABLISHED);
        let address = if i32::from(self.family) == libc::AF_INET {
            Ipv4Addr::from(field::<4>(&self.id, 20)).into()
        } else {
            let v6 = Ipv6Addr::from(field::<16>(&self.id, 20));
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        };
        has_peer.then_some((address, port))
    }
}

/// What the kernel has counted of a TCP connection (`struct tcp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpCounts {
    /// `tcpi_bytes_acked`: the SYN counts as a byte, and so does the FIN.
    pub acknowledged: u64,
    /// `tcpi_bytes_received`: the FIN counts as a byte.
    pub received: u64,
    /// `tcpi_total_retrans`, in segments.
    pub retransmitted: u32,
    /// `tcpi_retransmits`: how often in a row the first segment that has no acknowledgement was sent again.
    pub timeouts: u8,
}

impl TcpCounts {
    /// Kernels append fields to the structure; these are in it since Linux 4.1.
    fn of(info: &[u8]) -> Self {
        Self {
            retransmitted: u32::from_ne_bytes(field(info, 100)),
            acknowledged: u64::from_ne_bytes(field(info, 120)),
            received: u64::from_ne_bytes(field(info, 128)),
            timeouts: info.get(2).copied().unwrap_or(0),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// `AF_INET` or `AF_INET6`.
    pub family: i32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Also sockets without a peer.
    pub unconnected: bool,
}

/// A connection to the socket monitoring of the network namespace it was made in.
pub struct Diag(Netlink);

impl Diag {
    /// For the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkSockDiag).map(Self)
    }

    /// Calls `each` for the sockets of this namespace.
    pub fn list(&self, listing: Listing, mut each: impl FnMut(DiagSocket)) -> io::Result<()> {
        let states = match (listing.protocol, listing.unconnected) {
            (Protocol::Udp, false) => 1 << ESTABLISHED,
            (Protocol::Udp, true) => 1 << ESTABLISHED | 1 << CLOSE,
            _ => CONNECTIONS,
        };
        let body = request(listing.family, listing.protocol, states, &[0; ID]);
        self.0.send(SOCK_DIAG_BY_FAMILY, Request::Dump, &body)?;
        let protocol = listing.protocol;
        self.0.receive(|body| each(seen(protocol, body)))
    }

    /// Calls `each` for the TCP connections of this namespace, with what is counted of them.
    pub fn list_counts(
        &self,
        family: i32,
        mut each: impl FnMut(DiagSocket, TcpCounts),
    ) -> io::Result<()> {
        let mut body = request(family, Protocol::Tcp, CONNECTIONS, &[0; ID]);
        // `idiag_ext`
        body[2] = 1 << (INET_DIAG_INFO - 1);
        self.0.send(SOCK_DIAG_BY_FAMILY, Request::Dump, &body)?;
        self.0.receive(|body| {
            let attributes = body.get(MESSAGE..).unwrap_or_default();
            if let Some(info) = attribute(attributes, INET_DIAG_INFO) {
                each(seen(Protocol::Tcp, body), TcpCounts::of(info));
            }
        })
    }

    /// Closes a socket for its application as if the connection had been aborted. The kernel finds
    /// it by its addresses and checks its cookie, so no other socket is closed.
    pub fn destroy(&self, socket: &DiagSocket) -> io::Result<()> {
        let body = request(socket.family.into(), socket.protocol, u32::MAX, &socket.id);
        self.0.send(SOCK_DESTROY, Request::One, &body)?;
        self.0.receive(|_| ())
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: i32, protocol: Protocol, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![u8::try_from(family).unwrap_or(0), protocol.byte(), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

fn seen(protocol: Protocol, body: &[u8]) -> DiagSocket {
    DiagSocket {
        family: body.first().copied().unwrap_or(0),
        state: body.get(1).copied().unwrap_or(0),
        protocol,
        id: field(body, 4),
    }
}

/// Whether the kernel supports `SOCK_DESTROY`: tried on a socket of this process.
pub fn probe_destroy() -> bool {
    let tried = || -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(own) = socket.local_addr()? else { return Ok(()) };
        socket.connect(own)?;
        let mut id = [0; ID];
        id[0..2].copy_from_slice(&own.port().to_be_bytes());
        id[2..4].copy_from_slice(&own.port().to_be_bytes());
        id[4..8].copy_from_slice(&own.ip().octets());
        id[20..24].copy_from_slice(&own.ip().octets());
        // INET_DIAG_NOCOOKIE: no other socket has these addresses.
        id[40..48].fill(0xff);
        let family = u8::try_from(libc::AF_INET).unwrap_or(0);
        let own = DiagSocket { family, protocol: Protocol::Udp, state: ESTABLISHED, id };
        Diag::open()?.destroy(&own)
    };
    match tried() {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "the kernel does not close sockets by SOCK_DESTROY");
            false
        }
    }
}

/// What is listed. The order has no meaning.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];
pub const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn one(listing: Listing, port: u16) -> Vec<DiagSocket> {
        let mut found = Vec::new();
        let of_port = |seen: &DiagSocket| seen.local_port() == port;
        Diag::open().unwrap().list(listing, |seen| found.push(seen)).unwrap();
        found.retain(of_port);
        found
    }

    fn listing(family: i32) -> Listing {
        Listing { family, protocol: Protocol::Udp, unconnected: true }
    }

    #[test]
    fn a_connected_socket_is_seen_with_its_peer_and_an_unconnected_one_without() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let seen = one(listing(libc::AF_INET), port);
        assert_eq!(seen.iter().map(DiagSocket::peer).collect::<Vec<_>>(), [None]);
        let cookie = seen[0].cookie();
        socket.connect("127.0.0.1:9").unwrap();
        let seen = one(listing(libc::AF_INET), port);
        let to = ("127.0.0.1".parse().unwrap(), 9);
        assert_eq!(seen.iter().map(DiagSocket::peer).collect::<Vec<_>>(), [Some(to)]);
        assert_eq!(seen[0].cookie(), cookie, "the same socket");
        drop(socket);
        assert_eq!(one(listing(libc::AF_INET), port), []);
    }

    #[test]
    fn what_is_counted_of_a_connection_is_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[2; 50]).unwrap();
        client.read_exact(&mut [0; 50]).unwrap();
        let port = client.local_addr().unwrap().port();
        let mut found = Vec::new();
        Diag::open()
            .unwrap()
            .list_counts(libc::AF_INET, |socket, counts| {
                if socket.local_port() == port {
                    found.push(counts);
                }
            })
            .unwrap();
        // The SYN, and the server has read what the client sent, so that its answer acknowledged it.
        let counts = TcpCounts { acknowledged: 1001, received: 50, retransmitted: 0, timeouts: 0 };
        assert_eq!(found, [counts]);
    }

    #[test]
    fn a_mapped_peer_is_its_ipv4_address() {
        let socket = UdpSocket::bind("[::ffff:127.0.0.1]:0");
        let Ok(socket) = socket else { return };
        socket.connect("[::ffff:127.0.0.1]:9").unwrap();
        let seen = one(listing(libc::AF_INET6), socket.local_addr().unwrap().port());
        let to = ("127.0.0.1".parse().unwrap(), 9);
        assert_eq!(seen.iter().map(DiagSocket::peer).collect::<Vec<_>>(), [Some(to)]);
    }
}
