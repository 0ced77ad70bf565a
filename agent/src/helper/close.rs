//! Handles a request: searches sockets in the network namespaces and closes them.

use std::{collections::HashMap, io};

use anyhow::Context as _;

use sockline_ebpf::frontend::Protocol;

use super::{
    message::{Action, CloseTarget, Coverage, Outcome, SearchScope},
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

/// Closes sockets in all network namespaces of `scope`. Returns the outcome of each.
pub fn close(
    targets: &[CloseTarget],
    scope: SearchScope,
    closer: &mut dyn Close,
) -> anyhow::Result<(Vec<Outcome>, Coverage)> {
    let mut search = Search::new(targets);
    let mut namespaces = Namespaces::new().context("opening the helper's network namespace")?;
    let mut visit = || search.search_namespace(closer);
    if namespaces.visit(&mut visit)? == Next::Continue && scope == SearchScope::Threads {
        namespaces.visit_threads(&mut visit)?;
    }
    Ok((search.outcomes, namespaces.coverage()))
}

/// Which network namespaces can be entered, including those of single threads.
pub fn coverage() -> anyhow::Result<Coverage> {
    let mut namespaces = Namespaces::new().context("opening the helper's network namespace")?;
    let mut visit = || Ok(Next::Continue);
    namespaces.visit(&mut visit)?;
    namespaces.visit_threads(&mut visit)?;
    Ok(namespaces.coverage())
}

struct Search<'a> {
    targets: &'a [CloseTarget],
    /// Indices into `targets`.
    by_cookie: HashMap<u64, Vec<usize>>,
    outcomes: Vec<Outcome>,
    missing: usize,
}

impl<'a> Search<'a> {
    fn new(targets: &'a [CloseTarget]) -> Self {
        let mut by_cookie: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, target) in targets.iter().enumerate() {
            by_cookie.entry(target.cookie).or_default().push(index);
        }
        Self {
            targets,
            by_cookie,
            outcomes: vec![Outcome::Missing; targets.len()],
            missing: targets.len(),
        }
    }

    /// Searches the network namespace of this thread.
    fn search_namespace(&mut self, closer: &mut dyn Close) -> io::Result<Next> {
        let diag = Diag::open()?;
        for protocol in PROTOCOLS {
            // The kernel takes milliseconds to walk its TCP table, even if few sockets are in it.
            if self.targets.iter().all(|target| action(target, protocol) != Action::Close) {
                continue;
            }
            for family in FAMILIES {
                if self.missing == 0 {
                    return Ok(Next::Stop);
                }
                // Sockets without a peer are listed too, and kept.
                let listing = Listing { family, protocol, unconnected: true };
                let mut found = Vec::new();
                diag.list(listing, |socket| {
                    if self.is_target(&socket) {
                        found.push(socket);
                    }
                })?;
                for (socket, closed) in found.iter().zip(closer.close(&diag, &found)) {
                    self.closed(socket, &closed);
                }
            }
        }
        Ok(if self.missing == 0 { Next::Stop } else { Next::Continue })
    }

    /// Whether to close a socket. A target with another peer is kept.
    fn is_target(&mut self, socket: &DiagSocket) -> bool {
        let mut is_target = false;
        for index in self.by_cookie.get(&socket.cookie()).cloned().unwrap_or_default() {
            match action(&self.targets[index], socket.protocol) {
                Action::Ignore => {}
                Action::Close if self.is_its_peer(index, socket) => is_target = true,
                Action::Close | Action::Keep => self.set(index, Outcome::Kept),
            }
        }
        is_target
    }

    fn closed(&mut self, socket: &DiagSocket, closed: &io::Result<()>) {
        for index in self.by_cookie.get(&socket.cookie()).cloned().unwrap_or_default() {
            if action(&self.targets[index], socket.protocol) == Action::Close
                && self.is_its_peer(index, socket)
            {
                let outcome = match closed {
                    Ok(()) if socket.protocol == Protocol::Tcp => Outcome::ClosedTcp,
                    Ok(()) => Outcome::ClosedUdp,
                    Err(error) => Outcome::Failed(error.to_string()),
                };
                self.set(index, outcome);
            }
        }
    }

    fn is_its_peer(&self, index: usize, socket: &DiagSocket) -> bool {
        let target = &self.targets[index];
        socket.peer() == Some((target.address, target.port))
    }

    fn set(&mut self, index: usize, outcome: Outcome) {
        if std::mem::replace(&mut self.outcomes[index], outcome) == Outcome::Missing {
            self.missing -= 1;
        }
    }
}

const fn action(target: &CloseTarget, protocol: Protocol) -> Action {
    match protocol {
        Protocol::Tcp => target.tcp,
        Protocol::Udp => target.udp,
        Protocol::Sctp => Action::Ignore,
    }
}
