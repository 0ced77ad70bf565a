//! `cargo xtask hold-sockets`: one of the processes of a pod with many sockets. One process is not
//! enough: its limit of open files is far below that of a pod.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt::ReuseAddr,
};

/// Below the range of ephemeral ports.
const PORTS: std::ops::Range<u16> = 1024..32_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of sockets to open
    #[arg(long)]
    count: usize,
    /// Addresses to connect to, in turns
    #[arg(required = true)]
    targets: Vec<SocketAddr>,
}

/// Prints a line for each connect that failed, then the number of sockets, and keeps them until its input ends.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut sockets = Vec::new();
    for (target, port) in args.targets.iter().cycle().zip(PORTS.cycle()).take(args.count) {
        let socket = open(port)?;
        match socket.connect(target) {
            Ok(()) => sockets.push(socket),
            Err(error) => println!("{target} {}", error.raw_os_error().unwrap_or(0)),
        }
    }
    println!("{}", sockets.len());
    io::stdin().read_to_end(&mut Vec::new()).context("waiting for the end")?;
    Ok(())
}

fn open(port: u16) -> Result<UdpSocket> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("opening a socket")?;
    // There are more sockets than ports.
    setsockopt(&fd, ReuseAddr, &true)?;
    let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    bind(fd.as_raw_fd(), &own).context("binding a socket")?;
    Ok(fd.into())
}
