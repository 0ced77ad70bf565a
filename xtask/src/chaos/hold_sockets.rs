//! `cargo xtask hold-sockets`: one of the processes of a pod with many sockets. A process may have no more files
//! than its limit, which is far below what a pod may have.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt::ReuseAddr,
};

/// Ports that the kernel gives to nobody who asks for any.
const PORTS: std::ops::Range<u16> = 1024..32_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many sockets to open
    #[arg(long)]
    count: usize,
    /// The addresses to connect them to, one after the other
    #[arg(required = true)]
    targets: Vec<SocketAddr>,
}

/// Says a line for every connect that failed, and how many did not, then keeps them until its input ends.
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
        .context("making one of many sockets")?;
    // There are more sockets than ports.
    setsockopt(&fd, ReuseAddr, &true)?;
    let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    bind(fd.as_raw_fd(), &own).context("binding one of many sockets")?;
    Ok(fd.into())
}
