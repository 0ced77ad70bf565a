//! Keeps services that are costly to bring to the kernel, and change all the time, from delaying
//! the others.
//!
//! A service with ten thousand endpoints takes some milliseconds for each change. Such a service
//! goes at once, and then not again before a time in proportion to its size; what changed
//! meanwhile is one change. Services of an ordinary size never wait.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::model::object::ObjectName;

/// A service with fewer backends, over all its addresses, is never held up; an address counts for
/// [`FRONTEND`] of them.
const ORDINARY: usize = 1000;
/// A frontend costs as much as so many backends: some entries of hash maps.
pub const FRONTEND: usize = 8;
/// For each backend. Planning and writing one takes about half a microsecond (`cargo xtask bench
/// sync`), so a service that changes all the time takes a tenth of one core.
const REST: Duration = Duration::from_micros(5);
/// No change waits for longer.
const LONGEST: Duration = Duration::from_secs(1);
/// A service that was quiet for this long need not be remembered.
const FORGET: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Pacing {
    /// Costly services, and until when they rest.
    costly: HashMap<ObjectName, Instant>,
}

impl Pacing {
    /// Notes that a service, with so many backends, was brought to the kernel.
    pub fn brought(&mut self, service: &ObjectName, backends: usize, now: Instant) {
        if backends < ORDINARY {
            self.costly.remove(service);
        } else {
            let rest = REST.saturating_mul(u32::try_from(backends).unwrap_or(u32::MAX));
            self.costly.insert(service.clone(), now + rest.min(LONGEST));
        }
        if self.costly.len() > 1024 {
            self.costly.retain(|_, until| now.saturating_duration_since(*until) < FORGET);
        }
    }

    /// Begins a round: of the costly services that are `changed`, the one has its turn that may
    /// for the longest time, so that none waits for ever however many there are.
    pub fn round(&self, now: Instant, changed: impl Fn(&ObjectName) -> bool) -> Round<'_> {
        let turn = self
            .costly
            .iter()
            .filter(|(service, until)| **until <= now && changed(service))
            .min_by_key(|(service, until)| (*until, *service))
            .map(|(service, _)| service);
        Round { pacing: self, now, turn, next: std::cell::Cell::new(None) }
    }

    pub fn is_costly(&self, service: &ObjectName) -> bool {
        self.costly.contains_key(service)
    }
}

/// One round: of the costly services at most one has its turn, so that what arrives meanwhile
/// waits for no more than that one.
pub struct Round<'a> {
    pacing: &'a Pacing,
    now: Instant,
    turn: Option<&'a ObjectName>,
    next: std::cell::Cell<Option<Instant>>,
}

impl Round<'_> {
    /// Whether a changed service must wait for a later round.
    pub fn must_wait(&self, service: &ObjectName) -> bool {
        let Some(until) = self.pacing.costly.get(service) else { return false };
        if self.turn == Some(service) {
            return false;
        }
        let due = (*until).max(self.now);
        self.next.set(Some(self.next.get().map_or(due, |next| next.min(due))));
        true
    }

    /// When the first of those that must wait may have its turn.
    pub const fn next(&self) -> Option<Instant> {
        self.next.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_ordinary_service_never_waits() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        for _ in 0..100 {
            pacing.brought(&name("small"), ORDINARY - 1, now);
            assert!(!pacing.round(now, |_| true).must_wait(&name("small")));
        }
    }

    #[test]
    fn a_large_service_rests_in_proportion_but_not_for_ever() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        for (backends, rest) in [(1_000, 5 * MS), (10_000, 50 * MS), (1_000_000, 1000 * MS)] {
            pacing.brought(&name("big"), backends, now);
            let round = pacing.round(now + rest - MS / 2, |_| true);
            assert!(round.must_wait(&name("big")), "{backends}");
            assert_eq!(round.next(), Some(now + rest), "{backends}");
            assert!(!pacing.round(now + rest, |_| true).must_wait(&name("big")), "{backends}");
        }
    }

    #[test]
    fn of_several_large_services_one_has_its_turn_in_a_round() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        for service in ["a", "b", "c"] {
            pacing.brought(&name(service), 5000, now);
        }
        let later = now + Duration::from_secs(2);
        let round = pacing.round(later, |_| true);
        let waiting: Vec<bool> =
            ["a", "b", "small", "c"].iter().map(|s| round.must_wait(&name(s))).collect();
        assert_eq!(waiting, [false, true, false, true]);
        assert_eq!(round.next(), Some(later), "the next round may begin at once");
    }

    #[test]
    fn a_turn_is_not_lost_by_asking_twice() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        pacing.brought(&name("big"), 5000, now);
        let round = pacing.round(now + Duration::from_secs(2), |_| true);
        assert!(!round.must_wait(&name("big")));
        assert!(!round.must_wait(&name("big")));
        assert_eq!(round.next(), None);
    }

    #[test]
    fn a_turn_is_not_given_to_a_service_without_changes() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        pacing.brought(&name("a"), 5000, now);
        pacing.brought(&name("b"), 5000, now + MS);
        let round = pacing.round(now + Duration::from_secs(2), |service| *service == name("b"));
        assert!(!round.must_wait(&name("b")));
    }

    #[test]
    fn of_more_large_services_than_time_allows_all_have_their_turns() {
        let mut pacing = Pacing::default();
        let mut now = Instant::now();
        let names: Vec<ObjectName> = (10..60).map(|n| name(&n.to_string())).collect();
        for service in &names {
            pacing.brought(service, 1000, now);
        }
        let mut turns = HashMap::new();
        for _ in 0..5 * names.len() {
            // Each of them changes all the time, and bringing one takes so long that the first may
            // go again before the last had its turn.
            now += MS;
            let round = pacing.round(now, |_| true);
            let turn = names.iter().find(|service| !round.must_wait(service)).cloned();
            if let Some(service) = turn {
                pacing.brought(&service, 1000, now);
                *turns.entry(service).or_insert(0) += 1;
            }
        }
        let starved: Vec<_> = names.iter().filter(|name| !turns.contains_key(*name)).collect();
        assert!(starved.is_empty(), "{starved:?} of {turns:?}");
    }

    #[test]
    fn a_service_that_shrank_is_like_any_other() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        pacing.brought(&name("shrunk"), 10_000, now);
        pacing.brought(&name("shrunk"), 10, now);
        assert!(!pacing.round(now, |_| true).must_wait(&name("shrunk")));
    }
}
