//! Counts the packets of a namespace, to prove which addresses were on the wire.

use std::{
    collections::BTreeMap,
    fmt, io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt,
    },
};

use crate::Ns;

/// Packets are kept here until they are read; each takes about 1 KB, whatever its length.
const BUFFER_BYTES: usize = 128 << 20;

/// The loopback device is the first of every namespace.
const LOOPBACK: usize = 1;

/// The transport protocol of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Packets of one direction of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: Protocol,
}

impl Flow {
    /// Whether an address is on either side.
    pub fn touches(&self, address: IpAddr) -> bool {
        self.src.ip() == address || self.dst.ip() == address
    }
}

/// Counts the TCP and UDP packets that cross a namespace's devices, in both directions, from its
/// creation on. A packet over the loopback device counts once.
pub struct Capture {
    socket: OwnedFd,
    flows: BTreeMap<Flow, u64>,
    lost: u64,
}

impl Ns {
    /// Starts counting packets.
    ///
    /// # Errors
    /// Those of `socket` (needs root).
    pub fn capture(&self) -> io::Result<Capture> {
        // The kernel queues copies on the socket, which are read on demand: no thread is needed, and all
        // packets sent before are counted. Cooked packets start at their IP header.
        let socket = self.run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
        Ok(Capture { socket, flows: BTreeMap::new(), lost: 0 })
    }
}

impl Capture {
    /// The packets so far, by flow.
    ///
    /// # Errors When packets were lost because they were not read in time.
    pub fn flows(&mut self) -> io::Result<&BTreeMap<Flow, u64>> {
        let mut buffer = [0; 128];
        loop {
            // A packet longer than the buffer is truncated; its headers are complete.
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    if let Some(flow) = from.and_then(|from| flow_of(&buffer[..length], &from)) {
                        *self.flows.entry(flow).or_default() += 1;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.lost += self.lost_since_last_time()?;
        if self.lost > 0 {
            return Err(io::Error::other(format!("the capture lost {} packets", self.lost)));
        }
        Ok(&self.flows)
    }

    /// How many packets had this address on either side.
    ///
    /// # Errors
    /// Those of [`Capture::flows`].
    pub fn packets_of(&mut self, address: IpAddr) -> io::Result<u64> {
        self.packets(|flow| flow.touches(address))
    }

    /// How many packets belong to flows that meet a condition.
    ///
    /// # Errors
    /// Those of [`Capture::flows`].
    pub fn packets(&mut self, wanted: impl Fn(&Flow) -> bool) -> io::Result<u64> {
        let flows = self.flows()?;
        Ok(flows.iter().filter(|(flow, _)| wanted(flow)).map(|(_, count)| count).sum())
    }

    /// The kernel resets its count with each read.
    fn lost_since_last_time(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals, and the length is that of the structure.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(u64::from(stats.tp_drops))
    }
}

fn flow_of(packet: &[u8], from: &LinkAddr) -> Option<Flow> {
    // On the loopback device every packet is seen twice, outgoing and incoming.
    if from.ifindex() == LOOPBACK && from.pkttype() != libc::PACKET_OUTGOING {
        return None;
    }
    parse(packet)
}

/// Reads addresses and ports. IPv6 extension headers and later fragments are not counted: no test sends them.
fn parse(packet: &[u8]) -> Option<Flow> {
    let (src, dst, protocol, ports) = match packet.first()? >> 4 {
        4 => {
            let src: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let dst: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let ports = packet.get(usize::from(packet[0] & 0xf) * 4..)?;
            (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into(), packet[9], ports)
        }
        6 => {
            let src: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let dst: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let ports = packet.get(40..)?;
            (IpAddr::from(Ipv6Addr::from(src)), Ipv6Addr::from(dst).into(), packet[6], ports)
        }
        _ => return None,
    };
    let protocol = match i32::from(protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(ports.get(at..at + 2)?.try_into().ok()?));
    Some(Flow {
        src: SocketAddr::new(src, port(0)?),
        dst: SocketAddr::new(dst, port(2)?),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_with_options_is_skipped_by_its_own_length() {
        let mut packet = vec![0; 28];
        packet[0] = 0x46;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[24..28].copy_from_slice(&[0x00, 0x35, 0x04, 0x00]);
        let flow = parse(&packet).unwrap();
        assert_eq!(flow.src, "10.0.0.1:53".parse().unwrap());
        assert_eq!(flow.dst, "10.0.0.2:1024".parse().unwrap());
        assert_eq!(flow.protocol, Protocol::Udp);
    }

    #[test]
    fn a_cut_off_packet_is_not_counted() {
        assert_eq!(parse(&[0x45; 19]), None);
        assert_eq!(parse(&[]), None);
    }
}
