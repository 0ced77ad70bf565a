//! Counts, failures and events of a run.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::oracle::{ServiceId, Verdict};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Tcp,
    UdpConnected,
    UdpUnconnected,
    LongLivedTcp,
    LongLivedUdpConnected,
    LongLivedUdpUnconnected,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, short-lived",
            Self::UdpConnected => "UDP, short-lived, connected",
            Self::UdpUnconnected => "UDP, short-lived, unconnected",
            Self::LongLivedTcp => "TCP, long-lived",
            Self::LongLivedUdpConnected => "UDP, long-lived, connected",
            Self::LongLivedUdpUnconnected => "UDP, long-lived, unconnected",
        }
    }
}

/// The verdicts about the calls of one kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) correct: u64,
    pub(super) stale_endpoint: u64,
    pub(super) refused: u64,
    pub(super) endpoint_dead: u64,
    pub(super) during_damage: u64,
    pub(super) failed: u64,
    pub(super) misrouted: u64,
    /// Long-lived sockets that ended although their endpoint ran, or moved to another endpoint although theirs was
    /// still one.
    pub(super) lost: u64,
}

/// How many failures are kept with their details.
const KEPT: usize = 50;

pub(super) struct Results {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tallies: BTreeMap<Kind, Tally>,
    /// Other counts by name; those with `true` are violations.
    counts: BTreeMap<(bool, &'static str), u64>,
    faults: BTreeMap<&'static str, (u64, Duration)>,
    /// Connections that clients made, by service, and from when on they are counted.
    connections: BTreeMap<ServiceId, u64>,
    connections_since: Option<Instant>,
    failures: Vec<(Instant, String)>,
    events: Vec<(Instant, String)>,
}

impl Results {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, kind: Kind, verdict: &Verdict) {
        let mut inner = self.lock();
        let tally = inner.tallies.entry(kind).or_default();
        tally.all += 1;
        let (place, what) = match verdict {
            Verdict::Correct => (&mut tally.correct, None),
            Verdict::StaleEndpoint => (&mut tally.stale_endpoint, None),
            Verdict::Refused => (&mut tally.refused, None),
            Verdict::EndpointDead => (&mut tally.endpoint_dead, None),
            Verdict::DuringDamage => (&mut tally.during_damage, None),
            Verdict::Failed(what) => (&mut tally.failed, Some(("failed", what))),
            Verdict::Misrouted(what) => (&mut tally.misrouted, Some(("misrouted", what))),
        };
        *place += 1;
        if let Some((how, what)) = what {
            inner.fails(format!("{} {how}: {what}", kind.name()));
        }
    }

    /// Counts a connection, or the first flow of a UDP socket, that got an answer. It began at this time.
    pub(super) fn connected(&self, service: ServiceId, began: Instant) {
        let mut inner = self.lock();
        if inner.connections_since.is_none_or(|since| began >= since) {
            *inner.connections.entry(service).or_default() += 1;
        }
    }

    pub(super) fn connections(&self) -> BTreeMap<ServiceId, u64> {
        self.lock().connections.clone()
    }

    /// Counts only connections that begin from now on.
    pub(super) fn count_connections_again(&self) {
        let mut inner = self.lock();
        inner.connections.clear();
        inner.connections_since = Some(Instant::now());
    }

    /// Records that a long-lived socket was lost.
    pub(super) fn lost(&self, kind: Kind, what: &str) {
        let mut inner = self.lock();
        inner.tallies.entry(kind).or_default().lost += 1;
        inner.fails(format!("{} lost: {what}", kind.name()));
    }

    /// Counts something that is expected.
    pub(super) fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub(super) fn count_many(&self, what: &'static str, times: u64) {
        *self.lock().counts.entry((false, what)).or_default() += times;
    }

    /// Counts something that must not happen.
    pub(super) fn violation(&self, what: &'static str, detail: &str) {
        let mut inner = self.lock();
        *inner.counts.entry((true, what)).or_default() += 1;
        inner.fails(format!("{what}: {detail}"));
    }

    pub(super) fn event(&self, what: impl Into<String>) {
        self.lock().events.push((Instant::now(), what.into()));
    }

    pub(super) fn injected(&self, name: &'static str, took: Duration) {
        let mut inner = self.lock();
        let (count, time) = inner.faults.entry(name).or_default();
        (*count, *time) = (*count + 1, *time + took);
    }

    pub(super) fn calls(&self) -> u64 {
        self.lock().tallies.values().map(|tally| tally.all).sum()
    }

    pub(super) fn violations(&self) -> u64 {
        let inner = self.lock();
        let calls = inner.tallies.values().map(|tally| tally.failed + tally.misrouted + tally.lost);
        let others = inner.counts.iter().filter(|((violation, _), _)| *violation).map(|(_, n)| *n);
        calls.sum::<u64>() + others.sum::<u64>()
    }

    pub(super) fn tallies(&self) -> Vec<(Kind, Tally)> {
        self.lock().tallies.iter().map(|(kind, tally)| (*kind, *tally)).collect()
    }

    pub(super) fn counts(&self) -> Vec<(bool, &'static str, u64)> {
        self.lock().counts.iter().map(|((violation, what), n)| (*violation, *what, *n)).collect()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, u64, Duration)> {
        self.lock().faults.iter().map(|(name, (n, time))| (*name, *n, *time)).collect()
    }

    /// The first failures, and the events around the first one, with the seconds since the start.
    pub(super) fn failures_and_events(&self) -> (Vec<String>, Vec<String>) {
        const BEFORE: Duration = Duration::from_secs(12);
        const AFTER: Duration = Duration::from_secs(4);
        let inner = self.lock();
        let line = |(at, what): &(Instant, String)| {
            format!("{:8.3}  {what}", (*at - self.began).as_secs_f64())
        };
        let failures = inner.failures.iter().map(line).collect();
        let Some((first, _)) = inner.failures.first() else { return (failures, Vec::new()) };
        let near =
            inner.events.iter().filter(|(at, _)| *at + BEFORE >= *first && *at <= *first + AFTER);
        (failures, near.map(line).collect())
    }
}

impl Inner {
    fn fails(&mut self, what: String) {
        if self.failures.len() < KEPT {
            self.failures.push((Instant::now(), what));
        }
    }
}
