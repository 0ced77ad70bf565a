//! A raw descriptor of a socket, with the system calls that the standard library lacks.

use std::{
    io,
    mem::size_of,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            MsgFlags, SetSockOpt, SockaddrLike, SockaddrStorage, connect, getpeername, getsockname,
            sendto, setsockopt, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

use crate::wait::{ANSWER_TIMEOUT, patience};

/// A socket of any family and protocol, with one method per system call.
pub struct Socket(OwnedFd);

impl Socket {
    /// A TCP socket for IPv4 (`AF_INET`) or IPv6 (`AF_INET6`).
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn tcp(family: i32) -> io::Result<Self> {
        Self::open(family, libc::SOCK_STREAM, libc::IPPROTO_TCP)
    }

    /// An MPTCP socket; `None` if the kernel returns that it was built without MPTCP, like Debian's 5.10.
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn mptcp(family: i32) -> io::Result<Option<Self>> {
        let is_missing = !Path::new("/proc/sys/net/mptcp").exists();
        match Self::open(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) {
            Err(error) if is_missing && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                Ok(None)
            }
            Ok(_) if is_missing => Err(io::Error::other("MPTCP without its settings in /proc")),
            socket => socket.map(Some),
        }
    }

    /// A UDP socket.
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn udp(family: i32) -> io::Result<Self> {
        Self::open(family, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
    }

    /// Any socket; reads on it end with `WouldBlock` after [`ANSWER_TIMEOUT`] of silence.
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn open(family: i32, kind: i32, protocol: i32) -> io::Result<Self> {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
        // SAFETY: a descriptor that the kernel has just made for us.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) });
        let patience = patience(ANSWER_TIMEOUT).as_secs() as libc::time_t;
        socket.set(ReceiveTimeout, &TimeVal::new(patience, 0))?;
        Ok(socket)
    }

    /// `setsockopt`.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn set<O: SetSockOpt>(&self, option: O, value: &O::Val) -> io::Result<()> {
        Ok(setsockopt(&self.0, option, value)?)
    }

    /// `connect`, with a sockaddr of the family of `to`, which may differ from that of the socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        Ok(connect(self.0.as_raw_fd(), &SockaddrStorage::from(to))?)
    }

    /// `connect` with `AF_UNSPEC`: the socket has no peer any more.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn disconnect(&self) -> io::Result<()> {
        // SAFETY: all zeroes is a value of a structure of integers.
        let mut nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
        nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: the pointer is to a live local of the length that is given.
        let result = unsafe { libc::connect(self.0.as_raw_fd(), &raw const nobody, length) };
        Errno::result(result)?;
        Ok(())
    }

    /// `sendto` with flags such as `MSG_FASTOPEN`.
    ///
    /// # Errors
    /// Those of `sendto`.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr, flags: i32) -> io::Result<usize> {
        let flags = MsgFlags::from_bits_retain(flags);
        Ok(sendto(self.0.as_raw_fd(), payload, &SockaddrStorage::from(to), flags)?)
    }

    /// `getpeername`.
    ///
    /// # Errors
    /// Those of `getpeername`; `ENOTCONN` without a peer.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        to_std(&getpeername::<SockaddrStorage>(self.0.as_raw_fd())?)
    }

    /// `getsockname`.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local(&self) -> io::Result<SocketAddr> {
        to_std(&getsockname::<SockaddrStorage>(self.0.as_raw_fd())?)
    }

    /// The socket's cookie (`SO_COOKIE`), by which programs know it.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn cookie(&self) -> io::Result<u64> {
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the pointers are to live locals of the sizes that are given.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(cookie)
    }

    /// The socket as one of the standard library's, such as `TcpStream` or `UdpSocket`.
    pub fn into_std<T: From<OwnedFd>>(self) -> T {
        T::from(self.0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// The address and port of a text such as `10.96.0.1:80` or `[fd00:96::1]:80`.
///
/// # Panics
/// When it is another text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The IPv4-mapped form (`::ffff:a.b.c.d`) of an IPv4 address.
///
/// # Panics
/// With an IPv6 address.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddrV6::new(v4.to_ipv6_mapped(), address.port(), 0, 0).into(),
        IpAddr::V6(v6) => panic!("{v6} is no IPv4 address"),
    }
}

/// An address of the kernel as the standard library has it.
///
/// # Errors
/// `InvalidData` for other families than IPv4 and IPv6.
pub fn to_std(address: &SockaddrStorage) -> io::Result<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
    v4.or(v6).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("family {:?}", address.family()))
    })
}
