//! How long to wait before the API server is asked again.
//!
//! Whatever cuts one watch off usually cuts off those of every node at once. Each wait is therefore
//! drawn from a range, so that the nodes come back one after the other.

use std::time::Duration;

/// The longest wait after a first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest of all: this much later than it could an agent finds a server that is back.
const MOST: Duration = Duration::from_secs(30);
/// A server that asks for more patience is asked again after this long anyway.
const MOST_ASKED_FOR: Duration = Duration::from_secs(120);
/// Within this a watch that worked until it was cut off is taken up again.
const SPREAD: Duration = Duration::from_secs(1);

/// Grows with every failure in a row, from half a second to half a minute.
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
    /// The next wait; at least as long as the server asked for (`Retry-After`).
    pub(super) fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        let drawn = self.longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.longest = (self.longest * 2).min(MOST);
        match asked_for {
            Some(asked_for) => drawn.max(asked_for.min(MOST_ASKED_FOR) + spread()),
            None => drawn,
        }
    }
}

/// A short wait for what is no failure.
pub(super) fn spread() -> Duration {
    SPREAD.mul_f64(fastrand::f64())
}

/// How long the server shall keep a watch open: client-go's range, wide enough that watches which
/// began together do not end together.
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
        assert!(wait <= MOST_ASKED_FOR + SPREAD, "{wait:?}");
    }
}
