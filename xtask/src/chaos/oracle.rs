//! What is true of the cluster and since when: every answer that a client gets is judged by it.
//!
//! An agent cannot know of a change at once, and not at all while it is down or its API server is
//! away. So a service may be answered for by any of its states since the last one that is *confirmed*
//! to be in the kernel: see [`Oracle::confirmed`].

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(super) type ServiceId = usize;
pub(super) type PodId = usize;
pub(super) type Endpoints = Arc<BTreeSet<PodId>>;

/// A packet that a server answered is back within this time, however busy the machine is.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Times in which something was so, the last of which may go on.
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

/// An answer to a client, as far as it can be judged.
#[derive(Debug)]
pub(super) enum Seen {
    /// The pod and the service (by its port) that a server said it is.
    Answer {
        pod: PodId,
        service: ServiceId,
    },
    Error(io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// By an endpoint that is gone, of which the agent cannot have heard for sure.
    NotYetHeard,
    /// The service has no endpoints, and said so.
    Refused,
    /// An endpoint of the service was dead at the time.
    EndpointDead,
    /// Something was wrong in the maps, or a program detached, by our own doing.
    WhileDamaged,
    Failed(String),
    Misrouted(String),
}

/// Behind a lock: what happens to the cluster is noted here before it happens.
pub(super) struct Oracle(Mutex<Inner>);

struct Inner {
    /// Of each service the states with the times since when they hold.
    services: Vec<Vec<(Instant, Endpoints)>>,
    deaths: Vec<Spans>,
    damage: Spans,
    /// Somebody else may have served, by what was true at the time.
    bypasses: Spans,
    /// A new layout's agent starts with empty memory of sockets and clients.
    layout_changes: Spans,
    /// From the first of the two times on it is known that all changes before the second are in the
    /// kernel.
    confirmed: Vec<(Instant, Instant)>,
    is_calm: bool,
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
            is_calm: false,
        }))
    }

    /// Nothing is injected or changed any more, and what the agent does in its own time is done.
    pub(super) fn calms_down(&self) {
        self.lock().is_calm = true;
    }

    pub(super) fn is_calm(&self) -> bool {
        self.lock().is_calm
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service is about to get these endpoints.
    pub(super) fn set(&self, service: ServiceId, endpoints: Endpoints) {
        self.lock().services[service].push((Instant::now(), endpoints));
    }

    /// The newest state of a service.
    pub(super) fn endpoints(&self, service: ServiceId) -> Endpoints {
        self.lock().services[service].last().map(|(_, set)| Arc::clone(set)).unwrap_or_default()
    }

    pub(super) fn dies(&self, pod: PodId) {
        self.lock().deaths[pod].begin(Instant::now());
    }

    pub(super) fn lives(&self, pod: PodId) {
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

    /// Whether somebody else may have served at some time between these.
    pub(super) fn was_bypassed(&self, from: Instant, until: Instant) -> bool {
        self.lock().bypasses.touch(from, until)
    }

    pub(super) fn layout_change_begins(&self) {
        self.lock().layout_changes.begin(Instant::now());
    }

    pub(super) fn layout_change_ends(&self) {
        self.lock().layout_changes.end(Instant::now());
    }

    /// It has been seen that a change of this time is in the kernel, and so are all before it.
    pub(super) fn confirm(&self, change: Instant) {
        self.lock().confirmed.push((Instant::now(), change));
    }

    /// Up to when changes are known to be in the kernel.
    pub(super) fn confirmed(&self) -> Instant {
        self.lock().confirmed_at(Instant::now())
    }

    /// Whether something was damaged at some time between these.
    pub(super) fn was_damaged(&self, from: Instant, until: Instant) -> bool {
        self.lock().damage.touch(from, until)
    }

    pub(super) fn has_died(&self, pod: PodId, from: Instant, until: Instant) -> bool {
        self.lock().deaths[pod].touch(from - ON_ITS_WAY, until)
    }

    /// Whether another layout was coming to the kernel at some time between these.
    pub(super) fn layout_changed(&self, from: Instant, until: Instant) -> bool {
        self.lock().layout_changes.touch(from, until)
    }

    /// Whether an endpoint was one of the service's, and known as that, all the time.
    pub(super) fn was_there_all_the_time(
        &self,
        service: ServiceId,
        pod: PodId,
        from: Instant,
        until: Instant,
    ) -> bool {
        let inner = self.lock();
        inner.possible(service, from, until).iter().all(|state| state.contains(&pod))
    }

    /// Whether a socket must have kept an endpoint that it had at the first time: it was there all
    /// the time, for all that is known, and so was the memory of the socket.
    pub(super) fn must_have_stayed(
        &self,
        service: ServiceId,
        pod: PodId,
        from: Instant,
        until: Instant,
    ) -> bool {
        self.was_there_all_the_time(service, pod, from, until)
            && !self.layout_changed(from, until)
            && !self.was_damaged(from, until)
            && !self.was_bypassed(from, until)
    }

    /// Whether an endpoint may be one of the service's in the kernel at some time between these.
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

    /// Judges a call that began and ended at these times.
    pub(super) fn judge(
        &self,
        service: ServiceId,
        from: Instant,
        until: Instant,
        seen: &Seen,
    ) -> Verdict {
        let inner = self.lock();
        let states = inner.possible(service, from, until);
        let may = |pod: PodId| states.iter().any(|state| state.contains(&pod));
        let judged = match seen {
            Seen::Answer { pod, service: answered } if *answered == service && may(*pod) => {
                let is_new = states.last().is_some_and(|state| state.contains(pod));
                if is_new { Verdict::Right } else { Verdict::NotYetHeard }
            }
            Seen::Answer { pod, service: answered } => Verdict::Misrouted(format!(
                "service {service} was answered by pod {pod} for service {answered}; its \
                 endpoints: {states:?}"
            )),
            Seen::Error(error) => {
                // What stands for kube-proxy says it in a word.
                let is_told = error.kind() == io::ErrorKind::InvalidData;
                let refused = error.raw_os_error() == Some(libc::ECONNREFUSED)
                    || (is_told && inner.bypasses.touch(from, until));
                let untouched = [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM]
                    .map(Some)
                    .contains(&error.raw_os_error());
                let dead = states
                    .iter()
                    .flat_map(|state| state.iter())
                    .any(|&pod| inner.deaths[pod].touch(from - ON_ITS_WAY, until));
                if refused && states.iter().any(|state| state.is_empty()) {
                    Verdict::Refused
                } else if dead && !untouched {
                    Verdict::EndpointDead
                } else {
                    Verdict::Failed(format!(
                        "service {service}: {error}; its endpoints: {states:?}"
                    ))
                }
            }
        };
        match judged {
            Verdict::Failed(_) | Verdict::Misrouted(_) if inner.damage.touch(from, until) => {
                Verdict::WhileDamaged
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

    /// The states that the kernel may have had between these times.
    fn possible(&self, service: ServiceId, from: Instant, until: Instant) -> Vec<Endpoints> {
        let horizon = self.confirmed_at(from);
        let states = &self.services[service];
        let first = states.partition_point(|(since, _)| *since <= horizon).saturating_sub(1);
        let states = states[first..].iter().take_while(|(since, _)| *since <= until);
        states.map(|(_, state)| Arc::clone(state)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pods: &[PodId]) -> Endpoints {
        Arc::new(pods.iter().copied().collect())
    }

    fn answer(pod: PodId) -> Seen {
        Seen::Answer { pod, service: 0 }
    }

    fn refusal() -> Seen {
        Seen::Error(io::Error::from_raw_os_error(libc::ECONNREFUSED))
    }

    fn judge_now(oracle: &Oracle, seen: &Seen) -> Verdict {
        let now = Instant::now();
        oracle.judge(0, now, now, seen)
    }

    fn oracle_with(pods: &[PodId]) -> Oracle {
        let oracle = Oracle::new(1, 4);
        oracle.set(0, set(pods));
        oracle.confirm(Instant::now());
        oracle
    }

    #[test]
    fn an_endpoint_may_answer_until_its_removal_is_confirmed() {
        let oracle = oracle_with(&[1]);
        assert_eq!(judge_now(&oracle, &answer(1)), Verdict::Right);
        oracle.set(0, set(&[2]));
        assert_eq!(judge_now(&oracle, &answer(1)), Verdict::NotYetHeard);
        assert_eq!(judge_now(&oracle, &answer(2)), Verdict::Right);
        let before = Instant::now();
        oracle.confirm(Instant::now());
        assert!(matches!(judge_now(&oracle, &answer(1)), Verdict::Misrouted(_)));
        let late = oracle.judge(0, before, Instant::now(), &answer(1));
        assert_eq!(late, Verdict::NotYetHeard, "the call began before it was confirmed");
    }

    #[test]
    fn another_services_server_is_never_right() {
        let oracle = oracle_with(&[1]);
        let seen = Seen::Answer { pod: 1, service: 3 };
        assert!(matches!(judge_now(&oracle, &seen), Verdict::Misrouted(_)));
    }

    #[test]
    fn a_refusal_is_right_without_endpoints_only() {
        let oracle = oracle_with(&[1]);
        assert!(matches!(judge_now(&oracle, &refusal()), Verdict::Failed(_)));
        oracle.set(0, set(&[]));
        oracle.confirm(Instant::now());
        assert_eq!(judge_now(&oracle, &refusal()), Verdict::Refused);
        assert!(matches!(judge_now(&oracle, &answer(1)), Verdict::Misrouted(_)));
    }

    #[test]
    fn a_dead_endpoint_excuses_a_refusal_and_nothing_that_was_not_translated() {
        let oracle = oracle_with(&[1, 2]);
        oracle.dies(3);
        assert!(matches!(judge_now(&oracle, &refusal()), Verdict::Failed(_)), "of nobody");
        oracle.dies(2);
        assert_eq!(judge_now(&oracle, &refusal()), Verdict::EndpointDead);
        let untouched = Seen::Error(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert!(matches!(judge_now(&oracle, &untouched), Verdict::Failed(_)));
    }

    #[test]
    fn damage_excuses_what_overlaps_with_it() {
        let oracle = oracle_with(&[1]);
        oracle.damage_begins();
        assert_eq!(judge_now(&oracle, &refusal()), Verdict::WhileDamaged);
        oracle.damage_ends();
        assert!(matches!(judge_now(&oracle, &refusal()), Verdict::Failed(_)));
    }

    #[test]
    fn what_is_said_of_no_endpoints_is_a_refusal_while_calls_are_bypassed() {
        let oracle = oracle_with(&[]);
        let told = || Seen::Error(io::ErrorKind::InvalidData.into());
        assert!(matches!(judge_now(&oracle, &told()), Verdict::Failed(_)));
        oracle.bypass_begins();
        assert_eq!(judge_now(&oracle, &told()), Verdict::Refused);
        oracle.set(0, set(&[1]));
        oracle.confirm(Instant::now());
        assert!(matches!(judge_now(&oracle, &told()), Verdict::Failed(_)));
        oracle.bypass_ends();
    }

    #[test]
    fn a_socket_may_leave_an_endpoint_that_went_away_for_a_moment() {
        let oracle = oracle_with(&[1, 2]);
        let before = Instant::now();
        assert!(oracle.must_have_stayed(0, 1, before, Instant::now()));
        oracle.set(0, set(&[2]));
        oracle.set(0, set(&[1, 2]));
        oracle.confirm(Instant::now());
        assert!(!oracle.must_have_stayed(0, 1, before, Instant::now()));
        assert!(oracle.must_have_stayed(0, 2, before, Instant::now()));
    }
}
