//! How long to wait before the next request to the API server.
//!
//! What breaks one watch usually breaks those of all nodes. Each wait is therefore random within a range (jitter), so that
//! the nodes do not come back all at once.

use std::time::Duration;

/// Maximum wait after a first error.
const FIRST: Duration = Duration::from_secs(1);
/// Maximum backoff: after an outage the agent reconnects at most this late.
const MAX: Duration = Duration::from_secs(30);
/// Maximum `Retry-After` that is respected.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Maximum wait before a watch that worked is resumed.
const SPREAD: Duration = Duration::from_secs(1);

/// Doubles with each error in a row, from at most one second to at most half a minute.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { longest: FIRST }
    }
}

impl Backoff {
    /// The next wait, at least as long as the server requested (`Retry-After`).
    pub(super) fn next(&mut self, requested: Option<Duration>) -> Duration {
        let wait = self.longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.longest = (self.longest * 2).min(MAX);
        match requested {
            Some(requested) => wait.max(requested.min(MAX_RETRY_AFTER) + spread()),
            None => wait,
        }
    }
}

/// A short random wait.
pub(super) fn spread() -> Duration {
    SPREAD.mul_f64(fastrand::f64())
}

/// How long the server should keep a watch open: client-go's range, so wide that watches that began together do not end
/// together.
pub(super) fn watch_seconds() -> u32 {
    fastrand::u32(300..600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_limit_and_is_never_the_same_for_two_nodes() {
        let mut backoff = Backoff::default();
        for longest in [1, 2, 4, 8, 16, 30, 30] {
            let (longest, wait) = (Duration::from_secs(longest), backoff.next(None));
            assert!(longest / 2 <= wait && wait <= longest, "{wait:?} of {longest:?}");
        }
        let first = |_| Backoff::default().next(None);
        let waits: std::collections::HashSet<_> = (0..100).map(first).collect();
        assert!(waits.len() > 90, "{waits:?}");
    }

    #[test]
    fn it_is_as_patient_as_the_server_asks_within_reason() {
        let wait = Backoff::default().next(Some(Duration::from_secs(7)));
        assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_secs(8), "{wait:?}");
        let wait = Backoff::default().next(Some(Duration::from_secs(86_400)));
        assert!(wait <= MAX_RETRY_AFTER + SPREAD, "{wait:?}");
    }
}
