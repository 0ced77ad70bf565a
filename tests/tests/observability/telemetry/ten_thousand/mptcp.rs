//! Connections of MPTCP sockets. The servers know TCP only, so that each falls back to its first subflow.

use sockline_testbed::{Protocol, Socket};

use super::{
    super::{Seen, counts, failed, family},
    DEAD, DEAD_NUMBER, FULL, FULL_NUMBER, MPTCP, MPTCP_NUMBER, Mix, RACE, RACE_NUMBER,
    clients::{address, go},
    expected::{Expected, Way},
};

/// With each form of the service's address.
const ROUNDS: usize = 3;

/// All but [`Way::HalfClosed`]: once both sides have ended, the kernel disconnects the subflow, which clears what it has counted,
/// before the application closes its socket (`__mptcp_close_ssk`). Programs take that for a connection that was refused.
fn ways() -> impl Iterator<Item = Way> {
    Way::ALL.into_iter().filter(|way| *way != Way::HalfClosed)
}

/// What the connections of a way add.
fn seen(way: Way) -> Seen {
    let seen = way.seen(ROUNDS);
    match way {
        // Without a reset: what was not read is no longer in the subflow.
        Way::Unread => Seen { closed: counts([("client", ROUNDS as u64)]), ..seen },
        _ => seen,
    }
}

fn service(way: Way) -> (&'static str, u8) {
    if way == Way::BothClose { (RACE, RACE_NUMBER) } else { (MPTCP, MPTCP_NUMBER) }
}

/// What [`make`] adds.
pub(super) fn add_to(expected: &mut Expected) {
    for way in ways() {
        expected.add(service(way).0, Protocol::Tcp, &seen(way));
    }
    expected.add(DEAD, Protocol::Tcp, &failed("refused", ROUNDS as u64));
    expected.add(FULL, Protocol::Tcp, &failed("given-up", ROUNDS as u64));
}

/// Whether the kernel has MPTCP, and shows the connection of a subflow to programs.
pub(super) fn is_possible(mix: &Mix) -> bool {
    mix.cluster.features().unwrap().mptcp_sock && Socket::mptcp(libc::AF_INET).unwrap().is_some()
}

pub(super) fn make(mix: &Mix) {
    let socket = |number, form| {
        let to = address(number, 80, form);
        (Socket::mptcp(family(to)).unwrap().unwrap(), to)
    };
    mix.client.run(|| {
        for form in 0..ROUNDS {
            for way in ways() {
                let (socket, to) = socket(service(way).1, form);
                socket.connect(to).unwrap();
                go(socket.into_std(), way);
            }
            let (socket, dead) = socket(DEAD_NUMBER, form);
            let error = socket.connect(dead).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        }
        for form in 0..ROUNDS {
            let to = address(FULL_NUMBER, 80, form);
            let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
            let socket = Socket::open(family(to), kind, libc::IPPROTO_MPTCP).unwrap();
            let error = socket.connect(to).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        }
    });
}
