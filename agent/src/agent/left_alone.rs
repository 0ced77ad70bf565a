//! Pods that are left alone: from what the objects say to the cgroups that the kernel knows.

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

/// How long after its start a pod may be without a cgroup before that is told.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct LeftAlonePods {
    policy: Policy,
    watcher: Watcher,
    /// By the uid that a pod's cgroup is named by.
    wanted: BTreeMap<Arc<str>, Wanted>,
}

struct Wanted {
    pod: LeftAlone,
    /// It has a cgroup as of the last look.
    found: bool,
    /// Since when it ought to have one.
    running_since: Option<Instant>,
    told: bool,
    /// Of those that were found as of the last look.
    cgroups: Vec<u64>,
    /// The kernel's map has no room for one of them.
    unfit: bool,
}

impl LeftAlonePods {
    /// `top` is the cgroup that pods are below.
    pub fn new(policy: Policy, top: &Path) -> Self {
        Self { policy, watcher: Watcher::new(top), wanted: BTreeMap::new() }
    }

    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes in which pods are to be left alone.
    pub fn want(&mut self, pods: BTreeMap<Arc<str>, LeftAlone>) {
        let mut before = std::mem::take(&mut self.wanted);
        let now = Instant::now();
        self.wanted = pods
            .into_iter()
            .map(|(uid, pod)| {
                let old = before.remove(&uid);
                let running_since = old.as_ref().and_then(|old| old.running_since);
                let wanted = Wanted {
                    running_since: pod.running.then(|| running_since.unwrap_or(now)),
                    found: old.as_ref().is_some_and(|old| old.found),
                    told: old.as_ref().is_some_and(|old| old.told),
                    unfit: old.as_ref().is_some_and(|old| old.unfit),
                    cgroups: old.map_or_else(Vec::new, |old| old.cgroups),
                    pod,
                };
                (uid, wanted)
            })
            .collect();
    }

    /// Returns once there are new cgroups to look at.
    pub async fn cgroup_created(&mut self) {
        self.watcher.created().await;
    }

    /// A pod has no cgroup yet, or may have another one that nobody was told of.
    pub fn is_incomplete(&self) -> bool {
        let is_blind = self.watcher.is_blind();
        self.wanted.values().any(|wanted| !wanted.found || is_blind)
    }

    /// The cgroups of the pods as they are now. Says once of each pod that ought to have one and
    /// has not.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn cgroups(&mut self) -> io::Result<CgroupLevels> {
        if self.wanted.is_empty() {
            // Whoever leaves nobody alone pays nothing, not even for reading folders.
            return Ok(CgroupLevels::new());
        }
        let tree = self.watcher.read()?;
        let mut cgroups = CgroupLevels::new();
        self.wanted.values_mut().for_each(|wanted| wanted.cgroups.clear());
        for cgroup in tree.pods {
            if let Some(wanted) = self.wanted.get_mut(cgroup.uid.as_str()) {
                cgroups.insert(cgroup.id, cgroup.level);
                wanted.cgroups.push(cgroup.id);
            }
        }
        for (uid, wanted) in &mut self.wanted {
            wanted.found = !wanted.cgroups.is_empty();
            if wanted.found {
                wanted.told = false;
            } else if wanted.running_since.is_some_and(|since| since.elapsed() >= PATIENCE)
                && !std::mem::replace(&mut wanted.told, true)
            {
                tracing::warn!(
                    "Pod {}: no cgroup v2 of it (uid {uid}) was found; it is to be left alone, but \
                     its connections are redirected",
                    wanted.pod.pod
                );
            }
        }
        Ok(cgroups)
    }

    /// Takes in which cgroups the kernel has no room for. Says once of which pods they are.
    pub fn unfit(&mut self, cgroups: &[u64]) {
        let cgroups: HashSet<u64> = cgroups.iter().copied().collect();
        let mut new = Vec::new();
        for wanted in self.wanted.values_mut() {
            let unfit = wanted.cgroups.iter().any(|cgroup| cgroups.contains(cgroup));
            if unfit && !wanted.unfit {
                new.push(wanted.pod.pod.to_string());
            }
            wanted.unfit = unfit;
        }
        if !new.is_empty() {
            tracing::error!(
                "map `LEFT_ALONE` is full; the connections of these pods are redirected, although \
                 they are to be left alone: {}",
                super::report::some_of(&new)
            );
        }
    }

    /// For status.
    pub fn account(&self) -> Vec<status::LeftAlonePod> {
        self.wanted
            .values()
            .map(|wanted| status::LeftAlonePod {
                pod: wanted.pod.pod.to_string(),
                because: wanted.pod.because,
                running: wanted.pod.running,
                cgroup_found: wanted.found,
                no_room: wanted.unfit,
            })
            .collect()
    }
}
