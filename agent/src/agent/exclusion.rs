//! Excluded pods: finds the cgroups of the pods that the objects exclude.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    cgroups::Watcher,
    dataplane::CgroupLevels,
    model::left_alone::{LeftAlone, Policy},
    status,
};

/// How long a running pod may be without a cgroup before that is logged.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct ExcludedPods {
    policy: Policy,
    watcher: Watcher,
    /// By the pod UID, which the cgroup's name contains.
    pods: BTreeMap<Arc<str>, ExcludedPod>,
}

struct ExcludedPod {
    pod: LeftAlone,
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
    pub fn new(policy: Policy, top: &Path) -> Self {
        Self { policy, watcher: Watcher::new(top), pods: BTreeMap::new() }
    }

    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets which pods are excluded.
    pub fn set_pods(&mut self, pods: BTreeMap<Arc<str>, LeftAlone>) {
        let mut before = std::mem::take(&mut self.pods);
        let now = Instant::now();
        self.pods = pods
            .into_iter()
            .map(|(uid, pod)| {
                let old = before.remove(&uid);
                let running_since = old.as_ref().and_then(|old| old.running_since);
                let excluded = ExcludedPod {
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

    /// Waits for new cgroups.
    pub async fn cgroup_created(&mut self) {
        self.watcher.created().await;
    }

    /// Whether a pod has no cgroup yet, or may have another one that inotify did not report.
    pub fn is_incomplete(&self) -> bool {
        let is_blind = self.watcher.is_blind();
        self.pods.values().any(|excluded| !excluded.found || is_blind)
    }

    /// Reads the cgroups of the pods. Logs each pod once that should have one and has none.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn cgroups(&mut self) -> io::Result<CgroupLevels> {
        if self.pods.is_empty() {
            // Without excluded pods there is no cost, not even that of reading folders.
            return Ok(CgroupLevels::new());
        }
        let tree = self.watcher.read()?;
        let mut cgroups = CgroupLevels::new();
        self.pods.values_mut().for_each(|excluded| excluded.cgroups.clear());
        for cgroup in tree.pods {
            if let Some(excluded) = self.pods.get_mut(cgroup.uid.as_str()) {
                cgroups.insert(cgroup.id, cgroup.level);
                excluded.cgroups.push(cgroup.id);
            }
        }
        for (uid, excluded) in &mut self.pods {
            excluded.found = !excluded.cgroups.is_empty();
            if excluded.found {
                excluded.logged = false;
            } else if excluded.running_since.is_some_and(|since| since.elapsed() >= CGROUP_TIMEOUT)
                && !std::mem::replace(&mut excluded.logged, true)
            {
                tracing::warn!(
                    "Pod {}: no cgroup v2 of it (uid {uid}) was found; it is to be left alone, but \
                     its connections are redirected",
                    excluded.pod.pod
                );
            }
        }
        Ok(cgroups)
    }

    /// Records the cgroups that the map has no room for. Logs their pods once.
    pub fn record_no_room(&mut self, cgroups: &[u64]) {
        let cgroups: HashSet<u64> = cgroups.iter().copied().collect();
        let mut new = Vec::new();
        for excluded in self.pods.values_mut() {
            let no_room = excluded.cgroups.iter().any(|cgroup| cgroups.contains(cgroup));
            if no_room && !excluded.no_room {
                new.push(excluded.pod.pod.to_string());
            }
            excluded.no_room = no_room;
        }
        if !new.is_empty() {
            tracing::error!(
                "map `LEFT_ALONE` is full; the connections of these pods are redirected, although \
                 they are to be left alone: {}",
                super::status_publisher::first_names(&new)
            );
        }
    }

    /// The entries for the status.
    pub fn status(&self) -> Vec<status::LeftAlonePod> {
        self.pods
            .values()
            .map(|excluded| status::LeftAlonePod {
                pod: excluded.pod.pod.to_string(),
                because: excluded.pod.because,
                running: excluded.pod.running,
                cgroup_found: excluded.found,
                no_room: excluded.no_room,
            })
            .collect()
    }
}
