//! The less usual ways to open a connection: all of them are translated like a plain connect.

mod closed;
mod fast_open;
mod io_uring;
mod mptcp;
mod shared;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use sockline_testbed::{Ns, Protocol, WebAndEmptyService, at, mapped};

const V4: &str = WebAndEmptyService::V4;
const V6: &str = WebAndEmptyService::V6;
const EMPTY: &str = WebAndEmptyService::EMPTY;

/// The backend of a form of the service's address.
fn backend(setup: &WebAndEmptyService, to: SocketAddr) -> SocketAddr {
    let [v4, v6] = setup.web.addresses() else { panic!("the pod has both families") };
    let at_pod = |address: &IpAddr| SocketAddr::new(*address, WebAndEmptyService::PORT);
    match to {
        SocketAddr::V4(_) => at_pod(v4),
        SocketAddr::V6(v6_form) if v6_form.ip().to_ipv4_mapped().is_some() => mapped(at_pod(v4)),
        SocketAddr::V6(_) => at_pod(v6),
    }
}

/// The error number of a call to a service without endpoints on this kernel.
fn refusal(setup: &WebAndEmptyService) -> i32 {
    setup.cluster.features().unwrap().refusal()
}

fn translated(setup: &WebAndEmptyService) -> u64 {
    setup.cluster.counts("web", Protocol::Tcp).unwrap().translated
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// All forms of the service's address.
fn forms() -> [SocketAddr; 3] {
    [at(V4), at(V6), mapped(at(V4))]
}

/// Reads the server's name, then writes a line and reads it back.
fn talk(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    let name = lines.next().unwrap().unwrap();
    let mut writer = stream;
    writer.write_all(b"more\n").unwrap();
    let mut echo = lines.next().unwrap().unwrap();
    if echo == "early" {
        echo = lines.next().unwrap().unwrap();
    }
    assert_eq!(echo, "more");
    name
}

/// A counter of the namespace (`Documentation/networking/snmp_counter.rst`).
fn count(ns: &Ns, group: &str, name: &str) -> u64 {
    let table = ns.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|one| one == name).unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}
