//! Who answers at an address, asked as often as it takes to be sure.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    net::SocketAddr,
};

use sockline_testbed::{Ns, Protocol, UdpClient};

/// More asks for each pod would be a waste: a pod of five that is not drawn in so many was never
/// going to be (once in 10²⁴ runs).
const ASKS_PER_POD: usize = 50;
/// The suite's `AffinityConfirmCount`, with a margin.
const ASKS: usize = 20;

/// The name of the pod that answers a fresh socket.
pub fn dial(ns: &Ns, to: SocketAddr, protocol: Protocol) -> io::Result<String> {
    match protocol {
        Protocol::Tcp => Ok(ns.tcp_ask(to)?.who),
        _ => ns.run(|| Ok(UdpClient::connected(to)?.ask("hostname")?.who)),
    }
}

/// Fails unless each of these pods answers, and nobody else.
#[track_caller]
pub fn assert_reaches(ns: &Ns, to: SocketAddr, protocol: Protocol, wanted: &[&str]) {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for ask in 0..ASKS_PER_POD * wanted.len() {
        match dial(ns, to, protocol) {
            Ok(who) if wanted.contains(who.as_str()) => seen.insert(who),
            other => panic!("{protocol} {to} from {}: {other:?}, not {wanted:?}", ns.name()),
        };
        if ask >= ASKS && seen.len() == wanted.len() {
            return;
        }
    }
    assert_eq!(seen.len(), wanted.len(), "{protocol} {to} from {}: {seen:?}", ns.name());
}

/// Fails unless a connect is refused at once.
#[track_caller]
pub fn assert_refused(ns: &Ns, to: SocketAddr, protocol: Protocol) {
    match dial(ns, to, protocol) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => panic!("{protocol} {to} from {}: {other:?}, not refused", ns.name()),
    }
}

/// Fails if Sockline has anything to do with this cluster IP: dialled as it is, it is nowhere.
#[track_caller]
pub fn assert_not_served(ns: &Ns, to: SocketAddr, protocol: Protocol) {
    let nowhere = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    match dial(ns, to, protocol) {
        Err(error) if nowhere.contains(&error.kind()) => {}
        other => panic!("{protocol} {to} from {}: {other:?}", ns.name()),
    }
}
