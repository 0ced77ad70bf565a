//! Excluded pods: finds the cgroups of the pods that the objects exclude.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

use crate::{
    cgroups::{PodCgroup, Watcher},
    dataplane::{CgroupLevels, Dataplane},
    log_on_change::LogOnChange,
    model::{
        exclusion::{ExcludedPod, Policy},
        index::Index,
    },
    status::{self, ExclusionState, PodRef, Shared},
    telemetry::Metrics,
};

/// How long a running pod may be without a cgroup before that is logged.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct ExcludedPods {
    policy: Policy,
    watcher: Watcher,
    /// The map may not have all cgroups of the excluded pods.
    failed: bool,
    log: LogOnChange,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    pods: Pods,
}

/// The excluded pods, and what is known of their cgroups. By the pod UID, which the cgroup's name contains.
#[derive(Default)]
struct Pods(BTreeMap<Arc<str>, TrackedPod>);

/// An excluded pod and its cgroups.
struct TrackedPod {
    pod: ExcludedPod,
    /// It had a cgroup when the hierarchy was last read.
    found: bool,
    /// Since when it should have a cgroup.
    running_since: Option<Instant>,
    logged: bool,
    /// As of when the hierarchy was last read.
    cgroups: Vec<u64>,
    /// The kernel's map has no room for one of them.
    no_room: bool,
}

impl ExcludedPods {
    /// `top` is the cgroup that all pods are below.
    pub fn new(policy: Policy, top: &Path, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            policy,
            watcher: Watcher::new(top),
            failed: false,
            log: LogOnChange::new("cannot exclude pods"),
            shared,
            metrics,
            pods: Pods::default(),
        }
    }

    /// Applies a change of which pods the objects exclude.
    pub fn update(&mut self, index: &mut Index, dataplane: &mut Dataplane) {
        let pods = index.excluded_pods(&self.policy);
        if pods.is_some() || (index.is_complete() && dataplane.has_unconfirmed_exclusions()) {
            pods.into_iter().for_each(|pods| self.pods.set(pods));
            self.sync(dataplane);
        }
    }

    /// Whether to call [`Self::sync`] although nothing was reported: it failed, a pod has no cgroup yet, or
    /// inotify does not report new cgroups.
    pub fn needs_sync(&self) -> bool {
        let is_blind = self.watcher.is_blind();
        self.failed || self.pods.0.values().any(|excluded| !excluded.found || is_blind)
    }

    /// Brings the map to the cgroups of the excluded pods.
    pub fn sync(&mut self, dataplane: &mut Dataplane) {
        let result = self
            .cgroups()
            .context("reading the cgroup hierarchy")
            .and_then(|cgroups| Ok(dataplane.exclude_cgroups(&cgroups)?));
        self.failed = !matches!(&result, Ok(no_room) if no_room.is_empty());
        self.log.record(result.as_ref().map(|_| ()).map_err(AsRef::as_ref));
        match result {
            Ok(no_room) => self.pods.record_no_room(&no_room),
            Err(_) => self.metrics.sync_failed(),
        }
        let pods = self.pods.status();
        self.metrics.excluded_pods(&pods);
        self.shared.update(|status| status.excluded_pods = pods);
    }

    /// Waits for new cgroups.
    pub async fn cgroup_created(&mut self) {
        self.watcher.created().await;
    }

    /// Reads the cgroups of the pods.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    fn cgroups(&mut self) -> io::Result<CgroupLevels> {
        if self.pods.0.is_empty() {
            // Without excluded pods there is no cost, not even that of reading folders.
            return Ok(CgroupLevels::new());
        }
        let tree = self.watcher.read()?;
        Ok(self.pods.record_cgroups(tree.pods))
    }
}

impl Pods {
    /// Sets which pods are excluded; keeps what is known of those that were.
    fn set(&mut self, pods: BTreeMap<Arc<str>, ExcludedPod>) {
        let mut before = std::mem::take(&mut self.0);
        let now = Instant::now();
        self.0 = pods
            .into_iter()
            .map(|(uid, pod)| {
                let old = before.remove(&uid);
                let running_since = old.as_ref().and_then(|old| old.running_since);
                let excluded = TrackedPod {
                    running_since: pod.running.then(|| running_since.unwrap_or(now)),
                    found: old.as_ref().is_some_and(|old| old.found),
                    logged: old.as_ref().is_some_and(|old| old.logged),
                    no_room: old.as_ref().is_some_and(|old| old.no_room),
                    cgroups: old.map_or_else(Vec::new, |old| old.cgroups),
                    pod,
                };
                (uid, excluded)
            })
            .collect();
    }

    /// Records all pods' cgroups, and returns those of the excluded pods. Logs each excluded pod once that
    /// should have a cgroup and has none.
    fn record_cgroups(&mut self, all: impl IntoIterator<Item = PodCgroup>) -> CgroupLevels {
        let mut cgroups = CgroupLevels::new();
        self.0.values_mut().for_each(|excluded| excluded.cgroups.clear());
        for cgroup in all {
            if let Some(excluded) = self.0.get_mut(cgroup.uid.as_str()) {
                cgroups.insert(cgroup.id, cgroup.level);
                excluded.cgroups.push(cgroup.id);
            }
        }
        for (uid, excluded) in &mut self.0 {
            excluded.found = !excluded.cgroups.is_empty();
            if excluded.found {
                excluded.logged = false;
            } else if excluded.running_since.is_some_and(|since| since.elapsed() >= CGROUP_TIMEOUT)
                && !std::mem::replace(&mut excluded.logged, true)
            {
                tracing::warn!(
                    "Pod {}: it is excluded, but its connections are translated, because it has no \
                     cgroup in the v2 hierarchy (uid {uid})",
                    excluded.pod.pod
                );
            }
        }
        cgroups
    }

    /// Records the cgroups that the map has no room for. Logs their pods once.
    fn record_no_room(&mut self, cgroups: &[u64]) {
        let cgroups: HashSet<u64> = cgroups.iter().copied().collect();
        let mut new = Vec::new();
        for excluded in self.0.values_mut() {
            let no_room = excluded.cgroups.iter().any(|cgroup| cgroups.contains(cgroup));
            if no_room && !excluded.no_room {
                new.push(excluded.pod.pod.to_string());
            }
            excluded.no_room = no_room;
        }
        if !new.is_empty() {
            tracing::error!(
                "map `EXCLUDED` is full (its limit is fixed: exclude fewer pods); the connections of these excluded pods \
                 are translated: {}",
                super::status_publisher::first_names(&new)
            );
        }
    }

    /// The entries for the status.
    fn status(&self) -> Vec<status::ExcludedPod> {
        let pods = self.0.iter().map(|(uid, excluded)| status::ExcludedPod {
            pod: PodRef::new(Some(&excluded.pod.pod), uid),
            reason: excluded.pod.reason,
            state: match (excluded.found, excluded.pod.running) {
                _ if excluded.no_room => ExclusionState::NoRoom,
                (true, _) => ExclusionState::Excluded,
                (false, true) => ExclusionState::CgroupNotFound,
                (false, false) => ExclusionState::Starting,
            },
        });
        pods.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{exclusion::Reason, object::ObjectName};

    fn pods(pods: &[(&str, bool)]) -> BTreeMap<Arc<str>, ExcludedPod> {
        let pod = |name| ObjectName::new("shop", name);
        pods.iter()
            .map(|&(name, running)| {
                let excluded = ExcludedPod { pod: pod(name), reason: Reason::Pod, running };
                (Arc::from(format!("uid-{name}")), excluded)
            })
            .collect()
    }

    fn cgroup(pod: &str, id: u64) -> PodCgroup {
        PodCgroup { uid: format!("uid-{pod}"), id, level: 8 }
    }

    fn seen(pods: &Pods) -> Vec<(String, ExclusionState)> {
        let status = pods.status().into_iter();
        status.map(|pod| (pod.pod.to_string(), pod.state)).collect()
    }

    #[test]
    fn only_the_cgroups_of_excluded_pods_go_to_the_map() {
        let mut excluded = Pods::default();
        excluded.set(pods(&[("a", true), ("b", true)]));
        let levels = excluded.record_cgroups([cgroup("a", 1), cgroup("a", 2), cgroup("other", 3)]);
        assert_eq!(levels, CgroupLevels::from([(1, 8), (2, 8)]));
        let expected = [
            ("shop/a".into(), ExclusionState::Excluded),
            ("shop/b".into(), ExclusionState::CgroupNotFound),
        ];
        assert_eq!(seen(&excluded), expected);
    }

    #[test]
    fn a_change_of_the_excluded_pods_keeps_what_is_known_of_the_others() {
        let mut excluded = Pods::default();
        excluded.set(pods(&[("a", true), ("b", true)]));
        excluded.record_cgroups([cgroup("a", 1), cgroup("b", 2)]);
        excluded.record_no_room(&[1]);
        excluded.set(pods(&[("a", true), ("c", false)]));
        let expected = [
            ("shop/a".into(), ExclusionState::NoRoom),
            ("shop/c".into(), ExclusionState::Starting),
        ];
        assert_eq!(seen(&excluded), expected);
    }

    #[test]
    fn a_cgroup_that_fits_again_is_no_longer_without_room() {
        let mut excluded = Pods::default();
        excluded.set(pods(&[("a", true)]));
        excluded.record_cgroups([cgroup("a", 1)]);
        excluded.record_no_room(&[1]);
        excluded.record_no_room(&[]);
        assert_eq!(seen(&excluded), [("shop/a".into(), ExclusionState::Excluded)]);
    }
}
