//! Handles requests to read what the kernel says of open TCP connections.
//!
//! The helper handles one request at a time, and there may be thousands of network namespaces, in each of which the kernel
//! searches its whole TCP table: some 10 ms. So a reading is done in steps of limited time, each a request of its own.
//! Closing sockets of removed backends waits for the end of a step, never of a reading.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    message::{Coverage, Handshake, Progress, ReadConnection, SearchScope, Wanted},
    namespaces::{Namespaces, Next},
};
use crate::sock_destroy::diag::{Diag, FAMILIES, SYN_SENT, TcpCounts};

/// The time of a step. It may be exceeded by the time that one network namespace takes.
pub const STEP: Duration = Duration::from_secs(1);

/// A reading, which continues where it was.
pub struct Reading {
    missing: Missing,
    namespaces: Namespaces,
}

/// Cookies of connections that are not found yet.
struct Missing {
    in_processes: HashSet<u64>,
    in_threads: HashSet<u64>,
}

impl Reading {
    pub fn new(Wanted { in_processes, in_threads }: Wanted) -> anyhow::Result<Self> {
        let missing = Missing {
            in_processes: in_processes.into_iter().collect(),
            in_threads: in_threads.into_iter().collect(),
        };
        let namespaces = Namespaces::new().context("opening the helper's network namespace")?;
        Ok(Self { missing, namespaces })
    }

    /// Reads further network namespaces until `time` is over, at least one: that of this process, then those that are
    /// mounted and of processes, then those of single threads. The last ones take a look at every thread of the node, so
    /// only if a connection is missing that is wanted from there.
    pub fn read_for(&mut self, time: Duration) -> anyhow::Result<(Vec<ReadConnection>, Progress)> {
        let mut step = Step {
            missing: &mut self.missing,
            scope: SearchScope::Processes,
            deadline: Instant::now() + time,
            connections: Vec::new(),
        };
        self.namespaces.restart_clock();
        let mut next = self.namespaces.visit(&mut || step.read_namespace())?;
        if next == Next::Continue && !step.missing.in_threads.is_empty() {
            step.scope = SearchScope::Threads;
            next = self.namespaces.visit_threads(&mut || step.read_namespace())?;
        }
        let is_partial = next == Next::Stop && step.wants_more();
        let progress = if is_partial { Progress::Partial } else { Progress::Done };
        Ok((step.connections, progress))
    }

    /// Of all steps, but for the processor time, which is of the last one.
    pub fn coverage(&self) -> Coverage {
        self.namespaces.coverage()
    }
}

/// A part of a reading.
struct Step<'a> {
    missing: &'a mut Missing,
    scope: SearchScope,
    deadline: Instant,
    connections: Vec<ReadConnection>,
}

impl Step<'_> {
    /// Reads the network namespace of this thread.
    fn read_namespace(&mut self) -> io::Result<Next> {
        let diag = Diag::open()?;
        for family in FAMILIES {
            if !self.wants_more() {
                break;
            }
            diag.list_counts(family, |socket, counts| {
                let cookie = socket.cookie();
                if self.missing.in_threads.remove(&cookie)
                    || self.missing.in_processes.remove(&cookie)
                {
                    self.connections.push(counted(cookie, socket.state, &counts));
                }
            })?;
        }
        let is_over = !self.wants_more() || Instant::now() >= self.deadline;
        Ok(if is_over { Next::Stop } else { Next::Continue })
    }

    fn wants_more(&self) -> bool {
        let Missing { in_processes, in_threads } = &self.missing;
        match self.scope {
            SearchScope::Processes => !(in_processes.is_empty() && in_threads.is_empty()),
            SearchScope::Threads => !in_threads.is_empty(),
        }
    }
}

/// The kernel counts a FIN as a byte, and it may have one since it told the state. So the last byte of each direction is
/// omitted: it is counted when the connection ends.
const fn counted(cookie: u64, state: u8, counts: &TcpCounts) -> ReadConnection {
    const SYN: u64 = 1;
    const FIN: u64 = 1;
    ReadConnection {
        cookie,
        sent: counts.acknowledged.saturating_sub(SYN + FIN),
        received: counts.received.saturating_sub(FIN),
        retransmitted: counts.retransmitted,
        handshake: handshake(state, counts),
    }
}

/// The kernel sends a SYN again after a second (`TCP_TIMEOUT_INIT` of `net/tcp.h`). Its first SYN may not be sent yet, however
/// long ago `connect()` was: with Fast Open that waits for the first data (`TCP_FASTOPEN_CONNECT`).
const fn handshake(state: u8, counts: &TcpCounts) -> Handshake {
    if state == SYN_SENT && counts.timeouts > 0 { Handshake::Hanging } else { Handshake::Normal }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        path::PathBuf,
        process::Command,
        sync::mpsc,
        thread,
    };

    use nix::{
        sched::{CloneFlags, unshare},
        unistd::gettid,
    };

    use super::*;
    use crate::sock_destroy::diag::ESTABLISHED;

    const LONG: Duration = Duration::from_secs(3600);
    /// A cookie that no socket has.
    const NONE: u64 = u64::MAX - 1;

    /// A connection of this thread's network namespace, and the cookie of its client.
    fn connection() -> ((TcpStream, TcpStream), u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let own = client.local_addr().unwrap().port();
        let peer = server.local_addr().unwrap();
        let mut cookie = None;
        let diag = Diag::open().unwrap();
        diag.list_counts(libc::AF_INET, |socket, _| {
            if socket.local_port() == own && socket.peer() == Some((peer.ip(), peer.port())) {
                cookie = Some(socket.cookie());
            }
        })
        .unwrap();
        ((client, server), cookie.unwrap())
    }

    fn in_processes(cookies: &[u64]) -> Wanted {
        Wanted { in_processes: cookies.to_vec(), ..Wanted::default() }
    }

    fn in_threads(cookies: &[u64]) -> Wanted {
        Wanted { in_threads: cookies.to_vec(), ..Wanted::default() }
    }

    #[test]
    fn no_syn_or_fin_is_counted_as_a_byte() {
        let of = |acknowledged, received| {
            let counts = TcpCounts { acknowledged, received, retransmitted: 0, timeouts: 0 };
            let read = counted(7, ESTABLISHED, &counts);
            (read.sent, read.received)
        };
        assert_eq!(of(0, 0), (0, 0), "not established");
        assert_eq!(of(1, 0), (0, 0), "established");
        assert_eq!(of(102, 201), (100, 200), "100 and 200 bytes, and a FIN each");
    }

    #[test]
    fn a_connection_hangs_if_its_syn_was_sent_again() {
        let of = |state, timeouts| {
            let (acknowledged, received, retransmitted) = (0, 0, 0);
            handshake(state, &TcpCounts { acknowledged, received, retransmitted, timeouts })
        };
        assert_eq!(of(SYN_SENT, 1), Handshake::Hanging);
        assert_eq!(of(SYN_SENT, 0), Handshake::Normal, "it is on its way, or waits for data");
        assert_eq!(of(ESTABLISHED, 3), Handshake::Normal, "data is sent again");
    }

    #[test]
    fn a_step_whose_time_is_over_reads_one_namespace_and_the_next_one_continues() {
        let (_connection, cookie) = connection();
        let mut reading = Reading::new(in_processes(&[cookie, NONE])).unwrap();
        let (mut found, mut visited) = (Vec::new(), 0);
        loop {
            let (connections, progress) = reading.read_for(Duration::ZERO).unwrap();
            found.extend(connections.iter().map(|read| read.cookie));
            let namespaces = reading.coverage().namespaces;
            if progress == Progress::Done {
                assert_eq!(namespaces, visited, "no namespace was left");
                break;
            }
            visited += 1;
            assert_eq!(namespaces, visited);
        }
        assert!(visited > 0);
        assert_eq!(found, [cookie]);
    }

    #[test]
    fn a_step_with_time_is_a_whole_reading() {
        let (_connection, cookie) = connection();
        for wanted in [in_processes(&[cookie, NONE]), in_processes(&[cookie])] {
            let mut reading = Reading::new(wanted).unwrap();
            let (connections, progress) = reading.read_for(LONG).unwrap();
            assert_eq!(connections.iter().map(|read| read.cookie).collect::<Vec<_>>(), [cookie]);
            assert_eq!(progress, Progress::Done);
        }
    }

    #[test]
    fn threads_are_searched_only_for_connections_that_are_wanted_from_there() {
        let (send, receive) = mpsc::channel();
        let (end, wait) = mpsc::channel::<()>();
        // No other thread, and no mount, has its network namespace.
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let (connection, cookie) = connection();
            send.send((cookie, gettid())).unwrap();
            let _ = wait.recv();
            drop(connection);
        });
        let (cookie, thread_id) = receive.recv().unwrap();
        let namespace = PathBuf::from(format!("/proc/self/task/{thread_id}/ns/net"));
        let found = |wanted| {
            let mut reading = Reading::new(wanted).unwrap();
            let (connections, progress) = reading.read_for(LONG).unwrap();
            assert_eq!(progress, Progress::Done);
            let found = connections.iter().map(|read| read.cookie).collect::<Vec<_>>();
            (found, reading.namespaces.has_visited(&namespace))
        };
        assert_eq!(found(in_processes(&[cookie])), (vec![], false));
        assert_eq!(found(in_threads(&[cookie])), (vec![cookie], true));
        let both = Wanted { in_processes: vec![NONE], in_threads: vec![cookie] };
        assert_eq!(found(both), (vec![cookie], true));
        drop(end);
        thread.join().unwrap();
    }
}
