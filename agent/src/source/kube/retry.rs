//! What follows the end of a list or watch: how long to wait, whether to report the error, and whether to list again.
//! No I/O.

use std::time::Duration;

use super::{
    attempt::{Attempt, Phase, Start},
    backoff::{Backoff, spread},
    watch_error::WatchError,
};

/// A watch that lasted this long did start: the next error counts as a first one.
const STARTED: Duration = Duration::from_secs(1);
/// How many expected ends in a row are not reported. A watch that breaks, and whose version is then gone, is two.
const UNREPORTED: u32 = 2;
/// After this many resumed watches in a row that delivered nothing where an event had to come, the version is not
/// trusted: the store behind the server may have been restored from a backup and not have reached it.
const FRUITLESS: u32 = 3;

/// The wait before the next attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Without a report.
    Short(Duration),
    /// With a report of the error.
    Backoff(Duration),
}

/// The ends of one kind's attempts.
#[derive(Debug)]
pub(super) struct Retries {
    backoff: Backoff,
    /// Errors in a row.
    errors: u32,
    /// Resumed watches in a row that delivered nothing.
    fruitless: u32,
    was_expected: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self { backoff: Backoff::default(), errors: 0, fruitless: 0, was_expected: true }
    }
}

impl Retries {
    /// Whether the attempt ended in order: the server kept the watch open as long as requested, or was silent and is one
    /// that sends no bookmarks. Then the next attempt starts at once: only this agent's watch ended, so there is no
    /// crowd to avoid.
    pub(super) fn ended_in_order(
        &mut self,
        attempt: &Attempt,
        error: &WatchError,
        bookmarks: Bookmarks,
    ) -> bool {
        let in_order = match error {
            WatchError::Ended => attempt.lasted_in_full(),
            WatchError::Silent(_) => attempt.is_working && bookmarks == Bookmarks::NotSeen,
            _ => false,
        };
        if in_order {
            self.start_over();
        }
        in_order
    }

    /// Records how an attempt ended, unless in order.
    pub(super) fn record(&mut self, attempt: &Attempt, error: &WatchError) {
        if attempt.has_events {
            self.fruitless = 0;
        } else if attempt.start == Start::Resume
            && matches!(error, WatchError::Event(_) | WatchError::Silent(_))
        {
            self.fruitless += 1;
        }
        let is_expected = error.is_expected();
        let did_watch = attempt.phase == Phase::Watch
            && attempt.lasted() >= STARTED
            && (attempt.has_events || is_expected);
        // A server that restarted answers that the version is gone: it can be reached again.
        let is_back = is_expected && !self.was_expected;
        if did_watch || is_back {
            self.start_over();
        }
        self.was_expected = is_expected;
    }

    /// Whether to list again, because resuming led nowhere too often.
    pub(super) fn gives_up_version(&mut self) -> bool {
        let gives_up = self.fruitless >= FRUITLESS;
        if gives_up {
            self.fruitless = 0;
        }
        gives_up
    }

    /// How long to wait now. An expected end is not reported, unless there are many in a row.
    pub(super) fn pause(&mut self, error: &WatchError) -> Pause {
        let pause = if error.is_expected() && self.errors < UNREPORTED {
            Pause::Short(spread())
        } else {
            Pause::Backoff(self.backoff.next(error.retry_after()))
        };
        self.errors += 1;
        pause
    }

    fn start_over(&mut self) {
        (self.errors, self.backoff) = (0, Backoff::default());
    }
}

/// Whether the server sends bookmarks, so that silence means that it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bookmarks {
    NotSeen,
    Seen,
}

#[cfg(test)]
mod tests {
    use ::kube::core::Status;
    use tokio::time::advance;

    use super::*;

    fn gone() -> WatchError {
        WatchError::Event(Box::new(Status::failure("too old", "Expired").with_code(410)))
    }

    fn silent() -> WatchError {
        WatchError::Silent(Duration::from_secs(100))
    }

    fn resumed() -> Attempt {
        Attempt::new(Start::Resume, Phase::Watch)
    }

    fn is_reported(retries: &mut Retries, error: &WatchError) -> bool {
        retries.record(&resumed(), error);
        matches!(retries.pause(error), Pause::Backoff(_))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_in_order_at_the_requested_time_and_not_before() {
        let mut retries = Retries::default();
        let attempt = resumed();
        assert!(!retries.ended_in_order(&attempt, &WatchError::Ended, Bookmarks::Seen));
        advance(Duration::from_secs(attempt.watch_seconds.into())).await;
        assert!(retries.ended_in_order(&attempt, &WatchError::Ended, Bookmarks::Seen));
        assert!(!retries.ended_in_order(&attempt, &WatchError::Cut, Bookmarks::Seen));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_in_order_only_of_a_server_without_bookmarks() {
        let mut retries = Retries::default();
        let mut attempt = resumed();
        attempt.is_working = true;
        assert!(retries.ended_in_order(&attempt, &silent(), Bookmarks::NotSeen));
        assert!(!retries.ended_in_order(&attempt, &silent(), Bookmarks::Seen));
        assert!(!retries.ended_in_order(&resumed(), &silent(), Bookmarks::NotSeen));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expected_end_is_reported_when_it_repeats_and_any_other_at_once() {
        let mut retries = Retries::default();
        let reported: Vec<bool> = (0..4).map(|_| is_reported(&mut retries, &gone())).collect();
        assert_eq!(reported, [false, false, true, true]);
        assert!(is_reported(&mut Retries::default(), &silent()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_gone_after_an_outage_is_not_reported() {
        let mut retries = Retries::default();
        for _ in 0..5 {
            assert!(is_reported(&mut retries, &silent()));
        }
        assert!(!is_reported(&mut retries, &gone()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_worked_makes_the_next_error_a_first_one() {
        let mut retries = Retries::default();
        for _ in 0..3 {
            is_reported(&mut retries, &WatchError::Cut);
        }
        let attempt = resumed();
        advance(STARTED).await;
        retries.record(&attempt, &WatchError::Cut);
        assert!(matches!(retries.pause(&WatchError::Cut), Pause::Short(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_from_which_nothing_comes_three_times_is_given_up() {
        let mut retries = Retries::default();
        for _ in 0..FRUITLESS {
            assert!(!retries.gives_up_version());
            retries.record(&resumed(), &silent());
        }
        assert!(retries.gives_up_version());
        assert!(!retries.gives_up_version(), "once for each list");
        retries.record(&resumed(), &silent());
        let mut fruitful = resumed();
        fruitful.has_events = true;
        retries.record(&fruitful, &silent());
        retries.record(&resumed(), &silent());
        retries.record(&resumed(), &silent());
        assert!(!retries.gives_up_version(), "an event came between");
    }
}
