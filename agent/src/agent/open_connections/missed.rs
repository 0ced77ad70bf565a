//! Connections that readings did not find: where to search them next time.
//!
//! A TCP socket that was reset, or whose both sides have ended, stays open until the application closes it, and the kernel
//! lists it no more (`TCP_CLOSE`). An application may keep such sockets for days. Without this, each of them would have every
//! reading search all namespaces, and look at every thread of the node.

use std::collections::HashMap;

use crate::{
    dataplane::ConnectionKey,
    helper::{Coverage, Wanted},
};

/// How many readings search a connection. The kernel may skip one in a list whose entries change meanwhile
/// (`tcp_diag_dump`), so that one reading is too few.
const MAX_READINGS: u8 = 3;

/// In how many readings in a row each connection was missing.
#[derive(Debug, Default)]
pub struct Missed(HashMap<ConnectionKey, u8>);

impl Missed {
    /// What to read of these connections. One that was missing is not searched in the namespaces of single threads again.
    pub fn wanted(&self, connections: impl Iterator<Item = ConnectionKey>) -> Wanted {
        let mut wanted = Wanted::default();
        for key in connections {
            match self.readings(&key) {
                0 => wanted.in_threads.push(key.0),
                1..MAX_READINGS => wanted.in_processes.push(key.0),
                _ => {}
            }
        }
        wanted
    }

    /// Records a reading of these connections. Others are forgotten.
    pub fn record(
        &mut self,
        connections: impl Iterator<Item = ConnectionKey>,
        is_found: impl Fn(u64) -> bool,
        coverage: &Coverage,
    ) {
        // One in a namespace that could not be entered may be found later.
        let most = if coverage.is_complete() { MAX_READINGS } else { MAX_READINGS - 1 };
        let missing = connections.filter(|&(cookie, _)| !is_found(cookie));
        let missing = missing.map(|key| {
            let before = self.readings(&key);
            (key, before.max(most.min(before + 1)))
        });
        self.0 = missing.collect();
    }

    fn readings(&self, key: &ConnectionKey) -> u8 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: ConnectionKey = (7, 100);
    const RESET: ConnectionKey = (8, 100);

    /// Which of these connections each of some readings searches in processes, and which in threads; it finds the open one.
    fn readings(connections: &[ConnectionKey], coverage: &Coverage) -> Vec<(Vec<u64>, Vec<u64>)> {
        let mut missed = Missed::default();
        let reading = |_| {
            let wanted = missed.wanted(connections.iter().copied());
            missed.record(connections.iter().copied(), |cookie| cookie == OPEN.0, coverage);
            (wanted.in_processes, wanted.in_threads)
        };
        (0..5).map(reading).collect()
    }

    #[test]
    fn a_connection_that_was_reset_is_searched_in_threads_once_and_in_three_readings() {
        let expected = [
            (vec![], vec![7, 8]),
            (vec![8], vec![7]),
            (vec![8], vec![7]),
            (vec![], vec![7]),
            (vec![], vec![7]),
        ];
        assert_eq!(readings(&[OPEN, RESET], &Coverage::default()), expected);
        let alone = readings(&[RESET], &Coverage::default());
        assert_eq!(alone[3..], [(vec![], vec![]), (vec![], vec![])], "nothing is read");
    }

    #[test]
    fn a_connection_may_be_in_a_namespace_that_could_not_be_entered() {
        let coverage = Coverage { unseen: 1, ..Coverage::default() };
        let mut expected = vec![(vec![8], vec![]); 5];
        expected[0] = (vec![], vec![8]);
        assert_eq!(readings(&[RESET], &coverage), expected);
    }

    #[test]
    fn a_socket_that_connects_again_is_another_connection() {
        let mut missed = Missed::default();
        missed.record([RESET].into_iter(), |_| false, &Coverage::default());
        let again = (RESET.0, RESET.1 + 1);
        let wanted = missed.wanted([again].into_iter());
        assert_eq!((wanted.in_processes, wanted.in_threads), (vec![], vec![8]));
        missed.record([again].into_iter(), |_| true, &Coverage::default());
        assert_eq!(missed.wanted([RESET].into_iter()).in_threads, [8], "forgotten");
    }

    #[test]
    fn a_connection_that_a_list_skipped_is_searched_as_before_once_it_is_found() {
        let mut missed = Missed::default();
        missed.record([OPEN].into_iter(), |_| false, &Coverage::default());
        missed.record([OPEN].into_iter(), |_| true, &Coverage::default());
        assert_eq!(missed.wanted([OPEN].into_iter()).in_threads, [7]);
    }
}
