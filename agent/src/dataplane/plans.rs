//! Applying plans, and what they leave to be reclaimed.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Instant, SystemTime},
};

use super::{
    Dataplane,
    error::DataplaneError,
    maps::exclusion::CgroupLevels,
    programs::links::Attached,
    reconcile::{probe_service, report::SyncReport},
    retention::{RestoredState, UnconfirmedPolicy},
};
use crate::{
    bpf::rcu::Rcu,
    model::{
        object::ObjectName,
        plan::{Plan, ServicePlan},
        probe_service::{Listeners, ProbeService},
    },
};

/// What a sync did, and the error after it.
pub type Synced = (SyncReport, Result<(), DataplaneError>);

impl Dataplane {
    /// With [`UnconfirmedPolicy::Retain`], services that were restored from the maps stay unchanged
    /// until a plan has them with endpoints. So do excluded cgroups.
    pub const fn set_unconfirmed_policy(&mut self, policy: UnconfirmedPolicy) {
        self.unconfirmed = policy;
        self.reconciler.set_unconfirmed_policy(policy);
        self.exclusion.set_unconfirmed_policy(policy);
    }

    /// With [`RestoredState::Stale`], services that [`UnconfirmedPolicy::Retain`] and [`Self::retain`]
    /// keep are removed and bypassed if they were in no plan of this process. So are those of another
    /// layout.
    pub const fn set_restored_state(&mut self, state: RestoredState) {
        self.restored = state;
        self.reconciler.set_restored_state(state);
    }

    /// Sets the services that the next plans know nothing about: what the maps hold of them stays.
    pub fn retain(&mut self, services: &BTreeSet<ObjectName>) {
        self.reconciler.retain(services);
    }

    /// Whether [`Self::retain`] keeps a service port that was in no plan of this process.
    #[must_use]
    pub fn has_unconfirmed_retained(&self) -> bool {
        self.reconciler.has_unconfirmed_retained()
    }

    /// Marks services as deleted: what the maps hold of them does not stay, even if [`Self::retain`] has
    /// another service with the same name.
    pub fn mark_deleted(&mut self, services: &BTreeSet<ObjectName>) {
        self.reconciler.mark_deleted(services);
    }

    /// Whether cgroups are excluded only because an earlier agent excluded them, as of the last
    /// [`Self::exclude_cgroups`].
    #[must_use]
    pub fn has_unconfirmed_exclusions(&self) -> bool {
        self.exclusion.has_unconfirmed()
    }

    /// Applies a plan. A service that fails is in the report and affects only itself. The report is
    /// of what was done, also if the result is an error.
    pub fn sync(&mut self, plan: &Plan, node_addresses: &[IpAddr]) -> Synced {
        let report = self.reconciler.sync(plan, node_addresses);
        (report, self.synced())
    }

    /// Sets the addresses of other nodes at which NodePorts are served.
    pub fn set_other_nodes(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        self.reconciler.set_other_nodes(addresses)
    }

    /// Whether [`Self::sync_services`] can apply these changes. If not, they affect other services,
    /// and the whole plan has to be synced.
    pub fn is_local(&self, changes: &[ServicePlan]) -> bool {
        self.reconciler.is_local(changes)
    }

    /// Applies the plans of some services; the others stay unchanged. See [`Self::sync`].
    pub fn sync_services(&mut self, changes: &[ServicePlan]) -> Synced {
        let report = self.reconciler.sync_services(changes);
        (report, self.synced())
    }

    /// Applies the plans of services that did not fit before. Does not wait for freed entries.
    pub fn retry(&mut self, services: &[ServicePlan]) -> SyncReport {
        self.reconciler.retry(services)
    }

    /// Whether a map has more room than at the last call.
    pub const fn take_freed(&mut self) -> bool {
        self.reconciler.take_freed()
    }

    fn synced(&mut self) -> Result<(), DataplaneError> {
        // Links of another layout are taken over all at once, not by service. A retained service
        // does not delay that: one invalid object would keep all other services unchanged.
        let waits = self.unconfirmed.retains()
            && !self.restored.is_stale()
            && self.pins.others_have_links();
        if !self.attached && !waits {
            self.agent_state.start();
            self.attach()?;
        }
        self.record.synced(SystemTime::now())
    }

    /// Excludes exactly these cgroups, with their levels, and unconfirmed ones of an earlier agent
    /// while they are retained. Returns those that do not fit.
    pub fn exclude_cgroups(&mut self, cgroups: &CgroupLevels) -> Result<Vec<u64>, DataplaneError> {
        self.exclusion.sync(cgroups)
    }

    pub(super) fn attach(&mut self) -> Result<(), DataplaneError> {
        let mut attached = Attached::default();
        self.attach_links(&mut attached)?;
        tracing::info!(
            cgroup = %self.cgroup.display(),
            replaced = attached.replaced.len(),
            made = attached.made.len(),
            "programs attached"
        );
        self.attached = true;
        Ok(())
    }

    /// Adds a probe service with these listeners to the maps: all of it, or nothing.
    pub fn put_probe_service(
        &mut self,
        number: u64,
        listeners: Listeners,
    ) -> Result<(ProbeService, ServicePlan), DataplaneError> {
        probe_service::put(&mut self.reconciler, number, listeners)
    }

    pub fn remove_probe_service(&mut self, service: &ProbeService) -> Result<(), DataplaneError> {
        probe_service::remove(&mut self.reconciler, service.name())
    }

    /// To wait for running programs before freed entries are reclaimed.
    #[must_use]
    pub fn rcu(&self) -> Rcu {
        self.reconciler.rcu().clone()
    }

    /// Whether freed entries can be reclaimed with [`Self::reclaim_before`], after
    /// [`Rcu::synchronize_rcu`].
    pub fn has_reclaimable(&self) -> bool {
        self.reconciler.has_reclaimable()
    }

    /// Reclaims what was freed before this time. Every program that ran then must have ended.
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.reconciler.reclaim_before(time)
    }
}
