//! The cluster's state over time, and whether an answer to a client is consistent with it.
//!
//! An agent does not know a change at once, and not at all while it or its API server is down. So an answer may come
//! from any state of the service since the last one that is *confirmed* to be in the kernel: see
//! [`Oracle::confirmed`].

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(super) type ServiceId = usize;
pub(super) type PodId = usize;
pub(super) type Endpoints = Arc<BTreeSet<PodId>>;

/// The longest time between a server's answer and its arrival on a busy machine.
const MAX_LATENCY: Duration = Duration::from_millis(500);

/// Intervals in which something was true. The last one may be open.
#[derive(Default)]
pub(super) struct Spans(Vec<(Instant, Option<Instant>)>);

impl Spans {
    fn begin(&mut self, now: Instant) {
        self.0.push((now, None));
    }

    fn end(&mut self, now: Instant) {
        if let Some((_, end @ None)) = self.0.last_mut() {
            *end = Some(now);
        }
    }

    fn touch(&self, from: Instant, until: Instant) -> bool {
        self.0.iter().rev().any(|&(begin, end)| begin <= until && end.is_none_or(|end| end >= from))
    }
}

/// What a client got.
#[derive(Debug)]
pub(super) enum Observed {
    /// The pod, and the service by its port, that the server reported.
    Answer {
        pod: PodId,
        service: ServiceId,
    },
    Error(io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Correct,
    /// From a removed endpoint, before the removal was confirmed.
    StaleEndpoint,
    /// Refused, because the service has no endpoints.
    Refused,
    /// An endpoint of the service was dead at the time.
    EndpointDead,
    /// A fault had corrupted the maps or detached a program.
    DuringDamage,
    Failed(String),
    Misrouted(String),
}

/// Changes of the cluster are recorded here before they are made.
pub(super) struct Oracle(Mutex<Inner>);

struct Inner {
    /// The states of each service, with the time from which they are valid.
    services: Vec<Vec<(Instant, Endpoints)>>,
    deaths: Vec<Spans>,
    damage: Spans,
    /// Calls may have been served by kube-proxy, from the state at the time.
    bypasses: Spans,
    /// An agent with a new layout starts without the records of sockets and affinities.
    layout_changes: Spans,
    /// Pairs: at the first time, all changes before the second one were known to be in the kernel.
    confirmed: Vec<(Instant, Instant)>,
    faults_have_ended: bool,
}

impl Oracle {
    pub(super) fn new(services: usize, pods: usize) -> Self {
        let now = Instant::now();
        let mut deaths = Vec::new();
        deaths.resize_with(pods, Spans::default);
        Self(Mutex::new(Inner {
            services: vec![vec![(now, Endpoints::default())]; services],
            deaths,
            damage: Spans::default(),
            bypasses: Spans::default(),
            layout_changes: Spans::default(),
            confirmed: vec![(now, now)],
            faults_have_ended: false,
        }))
    }

    /// There are no faults and changes any more, and the agent has had time for its background work.
    pub(super) fn faults_end(&self) {
        self.lock().faults_have_ended = true;
    }

    pub(super) fn faults_have_ended(&self) -> bool {
        self.lock().faults_have_ended
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service gets these endpoints now.
    pub(super) fn set(&self, service: ServiceId, endpoints: Endpoints) {
        self.lock().services[service].push((Instant::now(), endpoints));
    }

    /// The newest state of a service.
    pub(super) fn endpoints(&self, service: ServiceId) -> Endpoints {
        self.lock().services[service].last().map(|(_, set)| Arc::clone(set)).unwrap_or_default()
    }

    pub(super) fn pod_ends(&self, pod: PodId) {
        self.lock().deaths[pod].begin(Instant::now());
    }

    pub(super) fn pod_is_back(&self, pod: PodId) {
        self.lock().deaths[pod].end(Instant::now());
    }

    pub(super) fn damage_begins(&self) {
        self.lock().damage.begin(Instant::now());
    }

    pub(super) fn damage_ends(&self) {
        self.lock().damage.end(Instant::now());
    }

    pub(super) fn bypass_begins(&self) {
        self.lock().bypasses.begin(Instant::now());
    }

    pub(super) fn bypass_ends(&self) {
        self.lock().bypasses.end(Instant::now());
    }

    /// Whether kube-proxy may have served between these times.
    pub(super) fn was_bypassed(&self, from: Instant, until: Instant) -> bool {
        self.lock().bypasses.touch(from, until)
    }

    pub(super) fn layout_change_begins(&self) {
        self.lock().layout_changes.begin(Instant::now());
    }

    pub(super) fn layout_change_ends(&self) {
        self.lock().layout_changes.end(Instant::now());
    }

    /// A change of this time, and all before it, are now known to be in the kernel.
    pub(super) fn confirm(&self, change: Instant) {
        self.lock().confirmed.push((Instant::now(), change));
    }

    /// The time up to which all changes are known to be in the kernel.
    pub(super) fn confirmed(&self) -> Instant {
        self.lock().confirmed_at(Instant::now())
    }

    /// Whether maps or links were damaged between these times.
    pub(super) fn was_damaged(&self, from: Instant, until: Instant) -> bool {
        self.lock().damage.touch(from, until)
    }

    pub(super) fn was_dead(&self, pod: PodId, from: Instant, until: Instant) -> bool {
        self.lock().deaths[pod].touch(from - MAX_LATENCY, until)
    }

    /// Whether the layout changed between these times.
    pub(super) fn layout_changed(&self, from: Instant, until: Instant) -> bool {
        self.lock().layout_changes.touch(from, until)
    }

    /// Whether the pod was an endpoint of the service in every state between these times.
    pub(super) fn was_always_endpoint(
        &self,
        service: ServiceId,
        pod: PodId,
        from: Instant,
        until: Instant,
    ) -> bool {
        let inner = self.lock();
        inner.possible(service, from, until).iter().all(|state| state.contains(&pod))
    }

    /// Whether a socket must still have the endpoint that it had at the first time: neither the endpoint nor the
    /// socket's record can have been lost since.
    pub(super) fn must_have_kept(
        &self,
        service: ServiceId,
        pod: PodId,
        from: Instant,
        until: Instant,
    ) -> bool {
        self.was_always_endpoint(service, pod, from, until)
            && !self.layout_changed(from, until)
            && !self.was_damaged(from, until)
            && !self.was_bypassed(from, until)
    }

    /// Whether the kernel may have had the pod as an endpoint of the service between these times.
    pub(super) fn may_be_endpoint(
        &self,
        service: ServiceId,
        pod: PodId,
        from: Instant,
        until: Instant,
    ) -> bool {
        let inner = self.lock();
        inner.possible(service, from, until).iter().any(|state| state.contains(&pod))
    }

    /// Classifies the result of a call that began and ended at these times.
    pub(super) fn classify(
        &self,
        service: ServiceId,
        from: Instant,
        until: Instant,
        observed: &Observed,
    ) -> Verdict {
        let inner = self.lock();
        let states = inner.possible(service, from, until);
        let may = |pod: PodId| states.iter().any(|state| state.contains(&pod));
        let verdict = match observed {
            Observed::Answer { pod, service: answered } if *answered == service && may(*pod) => {
                let is_new = states.last().is_some_and(|state| state.contains(pod));
                if is_new { Verdict::Correct } else { Verdict::StaleEndpoint }
            }
            Observed::Answer { pod, service: answered } => Verdict::Misrouted(format!(
                "pod {pod} answered for service {answered} instead of service {service}; its endpoints: \
                 {states:?}"
            )),
            Observed::Error(error) => {
                // The stand-in for kube-proxy answers that there are no endpoints.
                let is_empty = error.kind() == io::ErrorKind::InvalidData;
                let refused = error.raw_os_error() == Some(libc::ECONNREFUSED)
                    || (is_empty && inner.bypasses.touch(from, until));
                let untranslated = [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM]
                    .map(Some)
                    .contains(&error.raw_os_error());
                let dead = states
                    .iter()
                    .flat_map(|state| state.iter())
                    .any(|&pod| inner.deaths[pod].touch(from - MAX_LATENCY, until));
                if refused && states.iter().any(|state| state.is_empty()) {
                    Verdict::Refused
                } else if dead && !untranslated {
                    Verdict::EndpointDead
                } else {
                    Verdict::Failed(format!(
                        "service {service}: {error}; its endpoints: {states:?}"
                    ))
                }
            }
        };
        match verdict {
            Verdict::Failed(_) | Verdict::Misrouted(_) if inner.damage.touch(from, until) => {
                Verdict::DuringDamage
            }
            other => other,
        }
    }
}

impl Inner {
    fn confirmed_at(&self, time: Instant) -> Instant {
        let known = self.confirmed.iter().rev().find(|(known, _)| *known <= time);
        known.unwrap_or(&self.confirmed[0]).1
    }

    /// The states that the kernel may have had between these times, oldest first.
    fn possible(&self, service: ServiceId, from: Instant, until: Instant) -> Vec<Endpoints> {
        let horizon = self.confirmed_at(from);
        let states = &self.services[service];
        let first = states.partition_point(|(since, _)| *since <= horizon).saturating_sub(1);
        let states = states[first..].iter().take_while(|(since, _)| *since <= until);
        states.map(|(_, state)| Arc::clone(state)).collect()
    }
}

#[cfg(test)]
mod tests;
