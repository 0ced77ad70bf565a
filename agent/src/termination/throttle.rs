//! How often to look for sockets: a share of a processor's time, whatever comes of a look.

use std::time::{Duration, Instant};

/// Passes take no more than one part in so many of a processor's time.
const SHARE: u32 = 25;
/// The same of looks into what could not be looked into.
const RECHECK_SHARE: u32 = 100;

/// When the next look may be, at the earliest.
#[derive(Debug)]
pub struct Throttle {
    /// How often to look again whatever happened.
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

    /// Whether to look into what could not be looked into. If so, the next time is not before `every`,
    /// also if nobody takes in the end of this look.
    pub fn rechecks(&mut self, now: Instant) -> bool {
        let is_due = self.recheck <= now;
        if is_due {
            self.recheck = now + self.every;
        }
        is_due
    }

    /// Takes in how long a look into everything took, whether it failed or not.
    pub fn rechecked(&mut self, now: Instant, took: Duration) {
        self.recheck = now + self.every.max(took * RECHECK_SHARE);
    }

    /// Takes in how much of a processor's time a pass took.
    pub fn passed(&mut self, now: Instant, spent: Duration) {
        self.pass = now + spent * SHARE;
    }

    /// Takes in how long a pass took that failed. How much of that was a processor's time, nobody has
    /// said: so sockets wait no longer for it than for a regular pass.
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
