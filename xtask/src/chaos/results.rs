//! What was counted, what failed, and what happened when.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::oracle::Verdict;

/// How a client talks to a service.
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

/// How the calls of one kind ended.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) right: u64,
    pub(super) not_yet_heard: u64,
    pub(super) refused: u64,
    pub(super) endpoint_dead: u64,
    pub(super) while_damaged: u64,
    pub(super) failed: u64,
    pub(super) misrouted: u64,
    /// Held sockets that ended though their endpoint lived, or came to another one though it was
    /// there.
    pub(super) lost: u64,
}

/// As many failures are kept word by word.
const KEPT: usize = 50;

pub(super) struct Results {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tallies: BTreeMap<Kind, Tally>,
    /// Other things that are counted, by name; `true` are mistakes.
    counts: BTreeMap<(bool, &'static str), u64>,
    faults: BTreeMap<&'static str, (u64, Duration)>,
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

    pub(super) fn judged(&self, kind: Kind, verdict: &Verdict) {
        let mut inner = self.lock();
        let tally = inner.tallies.entry(kind).or_default();
        tally.all += 1;
        let (place, what) = match verdict {
            Verdict::Right => (&mut tally.right, None),
            Verdict::NotYetHeard => (&mut tally.not_yet_heard, None),
            Verdict::Refused => (&mut tally.refused, None),
            Verdict::EndpointDead => (&mut tally.endpoint_dead, None),
            Verdict::WhileDamaged => (&mut tally.while_damaged, None),
            Verdict::Failed(what) => (&mut tally.failed, Some(("failed", what))),
            Verdict::Misrouted(what) => (&mut tally.misrouted, Some(("misrouted", what))),
        };
        *place += 1;
        if let Some((how, what)) = what {
            inner.fails(format!("{} {how}: {what}", kind.name()));
        }
    }

    /// A held socket is lost.
    pub(super) fn lost(&self, kind: Kind, what: &str) {
        let mut inner = self.lock();
        inner.tallies.entry(kind).or_default().lost += 1;
        inner.fails(format!("{} lost: {what}", kind.name()));
    }

    /// Counts something that may happen.
    pub(super) fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub(super) fn count_many(&self, what: &'static str, times: u64) {
        *self.lock().counts.entry((false, what)).or_default() += times;
    }

    /// Counts something that must not happen.
    pub(super) fn mistake(&self, what: &'static str, detail: &str) {
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

    pub(super) fn mistakes(&self) -> u64 {
        let inner = self.lock();
        let calls = inner.tallies.values().map(|tally| tally.failed + tally.misrouted + tally.lost);
        let others = inner.counts.iter().filter(|((mistake, _), _)| *mistake).map(|(_, n)| *n);
        calls.sum::<u64>() + others.sum::<u64>()
    }

    pub(super) fn tallies(&self) -> Vec<(Kind, Tally)> {
        self.lock().tallies.iter().map(|(kind, tally)| (*kind, *tally)).collect()
    }

    pub(super) fn counts(&self) -> Vec<(bool, &'static str, u64)> {
        self.lock().counts.iter().map(|((mistake, what), n)| (*mistake, *what, *n)).collect()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, u64, Duration)> {
        self.lock().faults.iter().map(|(name, (n, time))| (*name, *n, *time)).collect()
    }

    /// The first failures, and what happened around the first of them; with the seconds since the
    /// beginning.
    pub(super) fn story(&self) -> (Vec<String>, Vec<String>) {
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
