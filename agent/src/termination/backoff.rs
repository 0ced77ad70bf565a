//! Backoff for restarts of the helper process: none for the first one, then doubling while it keeps
//! ending.

use std::time::{Duration, Instant};

/// After the second end in a row.
const FIRST: Duration = Duration::from_secs(1);
/// At most.
const LONGEST: Duration = Duration::from_secs(60);
/// A helper that ran for this long resets the backoff.
const STEADY: Duration = Duration::from_secs(60);

/// The state of the backoff.
#[derive(Debug, Default)]
pub struct RestartBackoff {
    /// The last restart.
    started: Option<Instant>,
    wait: Duration,
}

impl RestartBackoff {
    /// When to restart a helper that ended now, or could not be started now.
    pub fn after_end(&mut self, now: Instant) -> Instant {
        if self.started.is_none_or(|started| now.saturating_duration_since(started) >= STEADY) {
            self.wait = Duration::ZERO;
        }
        let due = now + self.wait;
        self.wait = (self.wait * 2).clamp(FIRST, LONGEST);
        due
    }

    /// Records an attempt.
    pub const fn tried(&mut self, now: Instant) {
        self.started = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_at_once_and_each_further_one_later() {
        let mut now = Instant::now();
        let mut backoff = RestartBackoff::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let due = backoff.after_end(now);
            waits.push(due.duration_since(now).as_secs());
            backoff.tried(due);
            now = due + Duration::from_millis(5);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        let later = now + STEADY;
        assert_eq!(backoff.after_end(later), later, "it ran for long enough");
    }
}
