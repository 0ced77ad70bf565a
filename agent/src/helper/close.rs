//! Handles one request: finds the wanted sockets and closes them.

use std::{collections::HashMap, io};

use anyhow::Context as _;

use sockline_ebpf::frontend::{TCP, UDP};

use super::{
    message::{Action, CloseTarget, Coverage, Outcome},
    namespaces::{Namespaces, Next},
};
use crate::sock_destroy::{
    diag::{Diag, DiagSocket, FAMILIES, Listing, PROTOCOLS},
    iterator::SocketIterators,
};

/// Closes sockets that were found.
pub trait Close {
    /// Closes sockets of one protocol that are in this thread's network namespace; one result for
    /// each.
    fn close(&mut self, diag: &Diag, sockets: &[DiagSocket]) -> Vec<io::Result<()>>;
}

/// `SOCK_DESTROY`.
pub struct Destroy;

impl Close for Destroy {
    fn close(&mut self, diag: &Diag, sockets: &[DiagSocket]) -> Vec<io::Result<()>> {
        sockets.iter().map(|socket| diag.destroy(socket)).collect()
    }
}

impl Close for SocketIterators {
    fn close(&mut self, _: &Diag, sockets: &[DiagSocket]) -> Vec<io::Result<()>> {
        let Some(first) = sockets.first() else { return Vec::new() };
        let cookies: Vec<u64> = sockets.iter().map(DiagSocket::cookie).collect();
        Self::close(self, first.protocol, &cookies)
    }
}

/// Closes the wanted sockets in all network namespaces. Returns the outcome of each.
pub fn close(
    wanted: &[CloseTarget],
    threads: bool,
    closer: &mut dyn Close,
) -> anyhow::Result<(Vec<Outcome>, Coverage)> {
    let mut search = Search::new(wanted);
    let mut namespaces = Namespaces::new().context("opening the helper's network namespace")?;
    let mut look = || search.look(closer);
    if namespaces.visit(&mut look)? == Next::Go && threads {
        namespaces.visit_threads(&mut look)?;
    }
    Ok((search.outcomes, namespaces.coverage()))
}

/// Which network namespaces can be entered, including those of single threads.
pub fn coverage() -> anyhow::Result<Coverage> {
    let mut namespaces = Namespaces::new().context("opening the helper's network namespace")?;
    let mut look = || Ok(Next::Go);
    namespaces.visit(&mut look)?;
    namespaces.visit_threads(&mut look)?;
    Ok(namespaces.coverage())
}

struct Search<'a> {
    wanted: &'a [CloseTarget],
    /// Where a socket is in `wanted`.
    by_cookie: HashMap<u64, Vec<usize>>,
    outcomes: Vec<Outcome>,
    missing: usize,
}

impl<'a> Search<'a> {
    fn new(wanted: &'a [CloseTarget]) -> Self {
        let mut by_cookie: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, wanted) in wanted.iter().enumerate() {
            by_cookie.entry(wanted.cookie).or_default().push(place);
        }
        Self {
            wanted,
            by_cookie,
            outcomes: vec![Outcome::Missing; wanted.len()],
            missing: wanted.len(),
        }
    }

    /// Searches the network namespace of this thread.
    fn look(&mut self, closer: &mut dyn Close) -> io::Result<Next> {
        let diag = Diag::open()?;
        for protocol in PROTOCOLS {
            // The kernel takes milliseconds to go through its table of TCP, however few are in it.
            if self.wanted.iter().all(|wanted| action(wanted, protocol) != Action::Close) {
                continue;
            }
            for family in FAMILIES {
                if self.missing == 0 {
                    return Ok(Next::Stop);
                }
                // A socket without a peer is found too, and kept.
                let listing = Listing { family, protocol, unconnected: true };
                let mut targets = Vec::new();
                diag.list(listing, |socket| {
                    if self.is_target(&socket) {
                        targets.push(socket);
                    }
                })?;
                for (socket, closed) in targets.iter().zip(closer.close(&diag, &targets)) {
                    self.closed(socket, &closed);
                }
            }
        }
        Ok(if self.missing == 0 { Next::Stop } else { Next::Go })
    }

    /// Whether to close a socket. A wanted socket with another peer is kept.
    fn is_target(&mut self, socket: &DiagSocket) -> bool {
        let mut is_target = false;
        for place in self.by_cookie.get(&socket.cookie()).cloned().unwrap_or_default() {
            match action(&self.wanted[place], socket.protocol) {
                Action::Ignore => {}
                Action::Close if self.is_its_peer(place, socket) => is_target = true,
                Action::Close | Action::Look => self.set(place, Outcome::Kept),
            }
        }
        is_target
    }

    fn closed(&mut self, socket: &DiagSocket, closed: &io::Result<()>) {
        for place in self.by_cookie.get(&socket.cookie()).cloned().unwrap_or_default() {
            if action(&self.wanted[place], socket.protocol) == Action::Close
                && self.is_its_peer(place, socket)
            {
                let outcome = match closed {
                    Ok(()) if socket.protocol == TCP => Outcome::ClosedTcp,
                    Ok(()) => Outcome::ClosedUdp,
                    Err(error) => Outcome::Failed(error.to_string()),
                };
                self.set(place, outcome);
            }
        }
    }

    fn is_its_peer(&self, place: usize, socket: &DiagSocket) -> bool {
        let wanted = &self.wanted[place];
        socket.peer() == Some((wanted.address, wanted.port))
    }

    fn set(&mut self, place: usize, outcome: Outcome) {
        if std::mem::replace(&mut self.outcomes[place], outcome) == Outcome::Missing {
            self.missing -= 1;
        }
    }
}

const fn action(wanted: &CloseTarget, protocol: u8) -> Action {
    match protocol {
        TCP => wanted.tcp,
        UDP => wanted.udp,
        _ => Action::Ignore,
    }
}
