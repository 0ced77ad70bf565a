//! Netlink requests (`netlink(7)`), one at a time on each socket.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// A message of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// An acknowledgement.
    One,
    /// A message for each object.
    Dump,
}

/// A netlink socket, in the network namespace in which it was created.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// For the network namespace of this thread.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    pub fn send(&self, kind: u16, request: Request, body: &[u8]) -> io::Result<()> {
        let flags = NLM_F_REQUEST
            | match request {
                Request::One => NLM_F_ACK,
                Request::Dump => NLM_F_DUMP,
            };
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence number and port are 0: one request at a time on this socket.
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Calls `each` for each message of the response.
    ///
    /// # Errors
    /// The kernel's error; `EINTR` if the objects changed while they were listed.
    pub fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut interrupted = false;
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            let mut rest = buffer.get(..length).ok_or_else(|| truncated("a datagram"))?;
            while rest.len() >= HEADER {
                let length = u32::from_ne_bytes(field(rest, 0)) as usize;
                let kind = u16::from_ne_bytes(field(rest, 4));
                interrupted |= u16::from_ne_bytes(field(rest, 6)) & NLM_F_DUMP_INTR != 0;
                let body = rest.get(HEADER..length).ok_or_else(|| truncated("a message"))?;
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        // Negative numbers of errors; 0 is success.
                        return match i32::from_ne_bytes(field(body, 0)) {
                            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                            _ if interrupted => Err(io::Error::from_raw_os_error(libc::EINTR)),
                            _ => Ok(()),
                        };
                    }
                    _ => each(body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn truncated(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of netlink is cut off"))
}

/// The bytes at an offset; zeros beyond the end.
pub fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        field.copy_from_slice(found);
    }
    field
}

/// The first attribute of this type (`struct nlattr`) in a list of them.
pub fn attribute(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    /// `NLA_TYPE_MASK`: without the flags.
    const TYPE: u16 = 0x3fff;
    while list.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(field(list, 0)));
        let value = list.get(4..length)?;
        if u16::from_ne_bytes(field(list, 2)) & TYPE == wanted {
            return Some(value);
        }
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}
