//! One real connect from this process.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};

use crate::{
    dataplane::{Snapshot, Translation},
    model::object::Protocol,
};

/// What came of it.
pub struct Made {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub result: io::Result<()>,
    pub took: Duration,
    /// `None` if the socket has no record.
    pub translation: Option<Translation>,
    /// What `getpeername()` returned.
    pub peer: Option<SocketAddr>,
}

/// Connects, and reads the socket's record while the socket is open. Nothing is sent on a UDP socket.
///
/// # Errors
/// When no socket can be made, or the maps cannot be read.
pub fn make(
    snapshot: &Snapshot,
    address: SocketAddr,
    protocol: Protocol,
    timeout: Duration,
) -> anyhow::Result<Made> {
    let (kind, of) = match protocol {
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Tcp | Protocol::Sctp => (Type::STREAM, socket2::Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(of))
        .with_context(|| format!("cannot make a socket for {address}"))?;
    let cookie = socket.cookie().context("cannot read the socket's cookie (SO_COOKIE)")?;
    let began = Instant::now();
    let result = socket.connect_timeout(&address.into(), timeout);
    let took = began.elapsed();
    Ok(Made {
        address,
        protocol,
        result,
        took,
        translation: snapshot.translation(cookie)?,
        peer: socket.peer_addr().ok().and_then(|peer| peer.as_socket()),
    })
}
