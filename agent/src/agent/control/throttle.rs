//! Keeps services that are costly to write and change all the time from delaying the others.
//!
//! A service with ten thousand endpoints takes some milliseconds for each change. Such a service is
//! written at once, and then not again before a time in proportion to its size; changes in between
//! become one change. Services of an ordinary size are never throttled.

use std::{
    cell::Cell,
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::model::{object::ObjectName, plan::ServicePlan};

/// A service that costs less than this, counted in backends, is never throttled.
const ORDINARY: usize = 1000;
/// What a frontend costs, counted in backends: some entries of hash maps.
const FRONTEND: usize = 8;
/// Minimum interval for each backend. Planning and writing one takes about half a microsecond (`cargo
/// xtask bench sync`), so a service that changes all the time takes a tenth of one core.
const INTERVAL: Duration = Duration::from_micros(5);
/// Maximum interval between two writes of one service.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// A costly service is forgotten this long after its interval.
const FORGET: Duration = Duration::from_secs(60);
/// How many costly services are remembered before old ones are forgotten.
const MAX_REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub struct Throttle {
    /// Costly services, and until when each is throttled.
    costly: HashMap<ObjectName, Instant>,
    due: Option<Instant>,
}

impl Throttle {
    /// When to sync services that were throttled.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sets [`Self::due`].
    pub const fn wait_until(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    /// Records that a service was written, and what that cost, counted in backends.
    pub fn record(&mut self, service: &ObjectName, cost: usize, now: Instant) {
        if cost < ORDINARY {
            self.costly.remove(service);
        } else {
            let interval = INTERVAL.saturating_mul(u32::try_from(cost).unwrap_or(u32::MAX));
            self.costly.insert(service.clone(), now + interval.min(MAX_INTERVAL));
        }
        if self.costly.len() > MAX_REMEMBERED {
            self.costly.retain(|_, until| now.saturating_duration_since(*until) < FORGET);
        }
    }

    /// Starts a batch. It has at most one costly service: of those that `is_changed` says have a change,
    /// the one whose interval ended first. So each of them is written in time, however many there are.
    pub fn batch(&self, now: Instant, is_changed: impl Fn(&ObjectName) -> bool) -> Batch<'_> {
        let costly = self
            .costly
            .iter()
            .filter(|(service, until)| **until <= now && is_changed(service))
            .min_by_key(|(service, until)| (*until, *service))
            .map(|(service, _)| service);
        Batch { throttle: self, now, costly, next: Cell::new(None) }
    }

    pub fn is_costly(&self, service: &ObjectName) -> bool {
        self.costly.contains_key(service)
    }
}

/// What one write of a service costs, counted in backends.
pub fn cost(plan: &ServicePlan) -> usize {
    let backends = plan.frontends.iter().map(|frontend| frontend.backends.len());
    backends.sum::<usize>() + FRONTEND * plan.frontends.len()
}

/// Changes that are written together. With at most one costly service, later changes wait for no more
/// than that one.
pub struct Batch<'a> {
    throttle: &'a Throttle,
    now: Instant,
    costly: Option<&'a ObjectName>,
    next: Cell<Option<Instant>>,
}

impl Batch<'_> {
    /// Whether a changed service has to wait for a later batch.
    pub fn is_throttled(&self, service: &ObjectName) -> bool {
        let Some(until) = self.throttle.costly.get(service) else { return false };
        if self.costly == Some(service) {
            return false;
        }
        let due = (*until).max(self.now);
        self.next.set(Some(self.next.get().map_or(due, |next| next.min(due))));
        true
    }

    /// When the first of the throttled services may be written.
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
    fn an_ordinary_service_is_never_throttled() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..100 {
            throttle.record(&name("small"), ORDINARY - 1, now);
            assert!(!throttle.batch(now, |_| true).is_throttled(&name("small")));
        }
    }

    #[test]
    fn the_interval_grows_with_the_size_up_to_a_maximum() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for (backends, interval) in [(1_000, 5 * MS), (10_000, 50 * MS), (1_000_000, 1000 * MS)] {
            throttle.record(&name("big"), backends, now);
            let batch = throttle.batch(now + interval - MS / 2, |_| true);
            assert!(batch.is_throttled(&name("big")), "{backends}");
            assert_eq!(batch.next(), Some(now + interval), "{backends}");
            assert!(
                !throttle.batch(now + interval, |_| true).is_throttled(&name("big")),
                "{backends}"
            );
        }
    }

    #[test]
    fn a_batch_has_at_most_one_large_service() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for service in ["a", "b", "c"] {
            throttle.record(&name(service), 5000, now);
        }
        let later = now + Duration::from_secs(2);
        let batch = throttle.batch(later, |_| true);
        let waiting: Vec<bool> =
            ["a", "b", "small", "c"].iter().map(|s| batch.is_throttled(&name(s))).collect();
        assert_eq!(waiting, [false, true, false, true]);
        assert_eq!(batch.next(), Some(later), "the next batch may start at once");
    }

    #[test]
    fn asking_twice_gives_the_same_answer() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        throttle.record(&name("big"), 5000, now);
        let batch = throttle.batch(now + Duration::from_secs(2), |_| true);
        assert!(!batch.is_throttled(&name("big")));
        assert!(!batch.is_throttled(&name("big")));
        assert_eq!(batch.next(), None);
    }

    #[test]
    fn a_service_without_changes_takes_no_place_in_a_batch() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        throttle.record(&name("a"), 5000, now);
        throttle.record(&name("b"), 5000, now + MS);
        let batch = throttle.batch(now + Duration::from_secs(2), |service| *service == name("b"));
        assert!(!batch.is_throttled(&name("b")));
    }

    #[test]
    fn no_large_service_starves_when_there_are_more_than_time_allows() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        let names: Vec<ObjectName> = (10..60).map(|n| name(&n.to_string())).collect();
        for service in &names {
            throttle.record(service, 1000, now);
        }
        let mut writes = HashMap::new();
        for _ in 0..5 * names.len() {
            // Each of them changes all the time, and writing one takes so long that the first may
            // be written again before the last was.
            now += MS;
            let batch = throttle.batch(now, |_| true);
            let written = names.iter().find(|service| !batch.is_throttled(service)).cloned();
            if let Some(service) = written {
                throttle.record(&service, 1000, now);
                *writes.entry(service).or_insert(0) += 1;
            }
        }
        let starved: Vec<_> = names.iter().filter(|name| !writes.contains_key(*name)).collect();
        assert!(starved.is_empty(), "{starved:?} of {writes:?}");
    }

    #[test]
    fn a_service_that_shrank_is_not_throttled() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        throttle.record(&name("shrunk"), 10_000, now);
        throttle.record(&name("shrunk"), 10, now);
        assert!(!throttle.batch(now, |_| true).is_throttled(&name("shrunk")));
    }
}
