//! Handles a request: reads what the kernel has counted of open TCP connections.

use std::{collections::HashSet, io};

use anyhow::Context as _;

use super::{
    message::{Coverage, ReadConnection},
    namespaces::{Namespaces, Next},
};
use crate::sock_destroy::diag::{Diag, FAMILIES, TcpCounts};

/// Reads the connections with these cookies, in all network namespaces. Only if some are in none of those that are mounted
/// or of processes, it takes a look at every thread of the node.
pub fn read(cookies: &[u64]) -> anyhow::Result<(Vec<ReadConnection>, Coverage)> {
    let mut missing: HashSet<u64> = cookies.iter().copied().collect();
    let mut connections = Vec::new();
    let mut namespaces = Namespaces::new().context("opening the helper's network namespace")?;
    let mut visit = || read_namespace(&mut missing, &mut connections);
    if namespaces.visit(&mut visit)? == Next::Continue {
        namespaces.visit_threads(&mut visit)?;
    }
    Ok((connections, namespaces.coverage()))
}

/// Reads the network namespace of this thread.
fn read_namespace(
    missing: &mut HashSet<u64>,
    connections: &mut Vec<ReadConnection>,
) -> io::Result<Next> {
    let diag = Diag::open()?;
    for family in FAMILIES {
        if missing.is_empty() {
            return Ok(Next::Stop);
        }
        diag.list_counts(family, |socket, counts| {
            let cookie = socket.cookie();
            if missing.remove(&cookie) {
                connections.push(counted(cookie, &counts));
            }
        })?;
    }
    Ok(if missing.is_empty() { Next::Stop } else { Next::Continue })
}

/// The kernel counts a FIN as a byte, and it may have one since it told the state. So the last byte of each direction is
/// omitted: it is counted when the connection ends.
const fn counted(cookie: u64, counts: &TcpCounts) -> ReadConnection {
    const SYN: u64 = 1;
    const FIN: u64 = 1;
    ReadConnection {
        cookie,
        sent: counts.acknowledged.saturating_sub(SYN + FIN),
        received: counts.received.saturating_sub(FIN),
        retransmitted: counts.retransmitted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_syn_or_fin_is_counted_as_a_byte() {
        let of = |acknowledged, received| {
            let read = counted(7, &TcpCounts { acknowledged, received, retransmitted: 0 });
            (read.sent, read.received)
        };
        assert_eq!(of(0, 0), (0, 0), "not established");
        assert_eq!(of(1, 0), (0, 0), "established");
        assert_eq!(of(102, 201), (100, 200), "100 and 200 bytes, and a FIN each");
    }
}
