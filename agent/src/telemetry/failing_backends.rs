//! Which backends answer no connect any more, though they are endpoints of their Service. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::definitions::ServicePortLabels;
use crate::dataplane::{BackendFailures, Counts};

/// Connections that were not established, one after the other.
const FAILURES: u64 = 3;
/// A backend that nobody connects to may be well again.
const RECENT: Duration = Duration::from_secs(300);

/// What was seen of the backends that did not establish all connections.
#[derive(Debug, Default)]
pub struct FailingBackends {
    seen: BTreeMap<(ServicePortLabels, IpAddr, u16), Seen>,
    by_port: BTreeMap<ServicePortLabels, u64>,
    has_begun: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    now: BackendFailures,
    /// Failures before the last sign that it answers.
    before: u64,
    /// When the last failure was seen.
    last: Instant,
}

impl FailingBackends {
    /// Records what was read.
    pub fn update(&mut self, all: &[(ServicePortLabels, Counts)], now: Instant) {
        let mut seen = BTreeMap::new();
        self.by_port.clear();
        for (labels, counts) in all {
            for &read in &counts.failures {
                let key = (labels.clone(), read.address, read.port);
                let known = self.seen.get(&key).map_or_else(
                    || Seen { now: read, before: self.before_first(&read), last: now },
                    |known| known.updated(read, now),
                );
                if known.is_failing(now) {
                    *self.by_port.entry(labels.clone()).or_default() += 1;
                }
                seen.insert(key, known);
            }
        }
        self.seen = seen;
        self.has_begun = true;
    }

    /// Backends of a service port that fail.
    pub fn of(&self, labels: &ServicePortLabels) -> u64 {
        self.by_port.get(labels).copied().unwrap_or(0)
    }

    /// The failures of a backend with its first one: an agent that starts does not know when they were.
    fn before_first(&self, read: &BackendFailures) -> u64 {
        let has_answered = read.ended > 0 || read.received > 0;
        if has_answered || !self.has_begun { read.failed } else { 0 }
    }
}

impl Seen {
    fn updated(&self, read: BackendFailures, now: Instant) -> Self {
        let was = &self.now;
        // A backend that was removed and added again begins at 0.
        let is_another = read.failed < was.failed || read.ended < was.ended;
        let answers = read.ended > was.ended || read.received > was.received;
        let before = if is_another || answers { read.failed } else { self.before };
        let last = if read.failed > was.failed { now } else { self.last };
        Self { now: read, before, last }
    }

    fn is_failing(&self, now: Instant) -> bool {
        self.now.failed - self.before >= FAILURES && now.duration_since(self.last) < RECENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::Protocol;

    fn labels() -> ServicePortLabels {
        ServicePortLabels {
            namespace: "shop".into(),
            service: "cart".into(),
            port: "http".into(),
            protocol: Protocol::Tcp,
        }
    }

    fn backend(failed: u64, ended: u64, received: u64) -> BackendFailures {
        let address = "10.0.0.1".parse().unwrap();
        BackendFailures { address, port: 80, failed, ended, received }
    }

    /// Failing backends after each of these readings, which are a minute apart.
    fn after(readings: &[BackendFailures]) -> Vec<u64> {
        let mut failing = FailingBackends::default();
        let start = Instant::now();
        failing.update(&[(labels(), Counts::default())], start);
        let minutes = (1..).map(|minute| start + Duration::from_secs(60 * minute));
        let reading = |(&read, now): (&BackendFailures, Instant)| {
            let counts = Counts { failures: vec![read], ..Counts::default() };
            failing.update(&[(labels(), counts)], now);
            failing.of(&labels())
        };
        readings.iter().zip(minutes).map(reading).collect()
    }

    #[test]
    fn a_backend_fails_after_three_connections_that_were_not_established() {
        assert_eq!(after(&[backend(2, 0, 0), backend(3, 0, 0), backend(9, 0, 0)]), [0, 1, 1]);
        assert_eq!(after(&[backend(1, 50, 0), backend(3, 50, 0), backend(4, 50, 0)]), [0, 0, 1]);
    }

    #[test]
    fn it_does_not_fail_once_it_answers() {
        assert_eq!(after(&[backend(3, 0, 0), backend(3, 1, 0), backend(5, 1, 0)]), [1, 0, 0]);
        // On a connection that is open.
        assert_eq!(after(&[backend(3, 0, 0), backend(4, 0, 10), backend(6, 0, 10)]), [1, 0, 0]);
    }

    #[test]
    fn it_does_not_fail_while_nobody_connects() {
        assert_eq!(after(&[backend(3, 0, 0); 8])[..5], [1; 5]);
        assert_eq!(after(&[backend(3, 0, 0); 8])[5..], [0; 3]);
    }

    #[test]
    fn failures_before_the_agents_start_do_not_count() {
        let mut failing = FailingBackends::default();
        let counts = |failed| Counts { failures: vec![backend(failed, 0, 0)], ..Counts::default() };
        for (failed, expected) in [(50, 0), (52, 0), (53, 1)] {
            failing.update(&[(labels(), counts(failed))], Instant::now());
            assert_eq!(failing.of(&labels()), expected);
        }
        failing.update(&[(labels(), Counts::default())], Instant::now());
        assert_eq!(failing.of(&labels()), 0, "removed");
    }

    #[test]
    fn a_backend_that_was_added_again_begins_at_zero() {
        assert_eq!(after(&[backend(9, 0, 0), backend(1, 0, 0), backend(4, 0, 0)]), [1, 0, 1]);
    }
}
