//! Limits how often passes run: to a share of one processor's time, whatever their result.

use std::time::{Duration, Instant};

/// Passes take at most 1/SHARE of one processor's time.
const SHARE: u32 = 25;
/// The same for checks of namespaces that could not be entered.
const RECHECK_SHARE: u32 = 100;

/// The earliest time of the next pass and of the next check.
#[derive(Debug)]
pub struct Throttle {
    /// Longest time between passes.
    every: Duration,
    pass: Instant,
    recheck: Instant,
}

impl Throttle {
    pub const fn new(every: Duration, now: Instant) -> Self {
        Self { every, pass: now, recheck: now }
    }

    pub const fn every(&self) -> Duration {
        self.every
    }

    /// When the next pass may be.
    pub const fn pass(&self) -> Instant {
        self.pass
    }

    /// Whether to check namespaces that could not be entered. If so, the next check is not before
    /// `every` is over, even if the result of this one is never recorded.
    pub fn rechecks(&mut self, now: Instant) -> bool {
        let is_due = self.recheck <= now;
        if is_due {
            self.recheck = now + self.every;
        }
        is_due
    }

    /// Records how long a check of everything took, whether it failed or not.
    pub fn rechecked(&mut self, now: Instant, took: Duration) {
        self.recheck = now + self.every.max(took * RECHECK_SHARE);
    }

    /// Records the processor time of a pass.
    pub fn passed(&mut self, now: Instant, spent: Duration) {
        self.pass = now + spent * SHARE;
    }

    /// Records how long a failed pass took. Its processor time is unknown, so the next one waits no
    /// longer than for a regular pass.
    pub fn failed(&mut self, now: Instant, took: Duration) {
        self.pass = now + (took * SHARE).min(self.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_recheck_of_which_no_end_is_known_is_followed_by_none_for_a_while() {
        let now = Instant::now();
        let mut throttle = Throttle::new(EVERY, now);
        assert!(throttle.rechecks(now));
        assert!(!throttle.rechecks(now));
        assert!(!throttle.rechecks(now + EVERY - SECOND));
        assert!(throttle.rechecks(now + EVERY));
    }

    #[test]
    fn a_recheck_that_took_long_is_rare() {
        let now = Instant::now();
        let mut throttle = Throttle::new(EVERY, now);
        assert!(throttle.rechecks(now));
        throttle.rechecked(now, 5 * SECOND);
        assert!(!throttle.rechecks(now + 499 * SECOND));
        assert!(throttle.rechecks(now + 500 * SECOND));
    }

    #[test]
    fn a_pass_that_failed_is_paced_as_well_but_waits_no_longer_than_a_regular_one() {
        let now = Instant::now();
        let mut throttle = Throttle::new(EVERY, now);
        throttle.passed(now, 4 * SECOND);
        assert_eq!(throttle.pass(), now + 100 * SECOND);
        throttle.failed(now, SECOND);
        assert_eq!(throttle.pass(), now + 25 * SECOND);
        throttle.failed(now, EVERY);
        assert_eq!(throttle.pass(), now + EVERY);
    }
}
