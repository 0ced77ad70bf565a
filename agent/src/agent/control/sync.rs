//! Writes the plan to the maps.

use std::time::Instant;

use jiff::Timestamp;

use super::{
    Control,
    next_sync::{NextSync, Outcome, Scope},
    throttle,
};
use crate::{
    dataplane::{RestoredState, SyncReport, Synced, UnconfirmedPolicy},
    model::plan::{Plan, ServicePlan},
    telemetry::SyncScope,
};

/// What an agent waits for that finds another layout of the maps: what the programs of that layout serve
/// cannot be replaced service by service.
const ANOTHER_LAYOUT: &str = "a source that can be read in full; until then, the kernel serves what an \
                              agent of another layout left";

impl Control {
    /// Plans the changes and writes them to the maps.
    pub(super) fn sync(&mut self) {
        let _span = tracing::debug_span!("sync").entered();
        self.throttle.wait_until(None);
        self.publisher.mark_dirty();
        if !self.index.synced() {
            return;
        }
        self.dataplane.set_unconfirmed_policy(if self.index.is_complete() {
            UnconfirmedPolicy::Remove
        } else {
            UnconfirmedPolicy::Retain
        });
        self.dataplane.mark_deleted(&self.index.take_deleted());
        self.dataplane.retain(self.index.retained());
        self.dataplane.set_restored_state(if self.heartbeat.is_overdue() {
            RestoredState::Stale
        } else {
            RestoredState::Current
        });
        // First, so that programs that are attached now redirect no excluded pod.
        self.excluded_pods.update(&mut self.index, &mut self.dataplane);
        let began = Instant::now();
        let (report, result) = self.write();
        // Also after a failure: no later report repeats what this one has.
        self.termination.synced(&report, &mut self.index);
        self.next_sync = NextSync::after(Outcome {
            failed: result.is_err(),
            unconfirmed: report.services_unconfirmed,
            attached: self.dataplane.is_attached(),
            source_complete: self.index.is_complete(),
        });
        match result {
            Ok(()) => self.synced(&report, began),
            Err(error) => self.publisher.sync_failed(&error.into()),
        }
        self.schedule_retry();
    }

    /// Releases what only an earlier agent confirmed when it is too old to be served. Otherwise the programs
    /// would bypass all other services with it.
    pub(super) fn release_if_overdue(&mut self) {
        if self.next_sync == NextSync::Failed
            || !self.index.synced()
            || !self.heartbeat.is_overdue()
        {
            return;
        }
        if self.next_sync == NextSync::Unconfirmed || self.dataplane.has_unconfirmed_retained() {
            // It is in no list of changes.
            self.next_sync.require(NextSync::Full);
            self.sync();
        }
    }

    /// Tries the services of the retry queue again.
    pub(super) fn retry(&mut self) {
        let _span = tracing::debug_span!("retry").entered();
        let began = Instant::now();
        self.sync_other_nodes();
        let mut services: Vec<ServicePlan> = self
            .retry_queue
            .services()
            // A service that has changed since is written with its change.
            .filter(|service| !self.index.is_waiting(service))
            .map(|service| self.index.planned_of(service))
            .collect();
        self.keep_endpoints(&mut services);
        if self.dataplane.is_local(&services) {
            let report = self.dataplane.retry(&services);
            self.metrics.count_sync(SyncScope::Retry);
            self.termination.synced(&report, &mut self.index);
            self.retry_queue.record_services(&services, &report.errors);
            if report.services_changed > 0 {
                tracing::info!(services = report.services_changed, "services fit now");
                self.publisher.mark_dirty();
            }
            self.publish_unsynced();
        } else {
            // They have NodePorts, or had.
            self.next_sync.require(NextSync::Full);
            self.sync();
        }
        self.retry_queue.retried(began.elapsed());
        // What the retry itself freed is no reason for another one.
        self.dataplane.take_freed();
    }

    /// Schedules a retry if some map has more room than before.
    pub(super) fn schedule_retry(&mut self) {
        if self.dataplane.take_freed() {
            self.retry_queue.room_freed();
        }
    }

    /// Adds the frontends that no object has to a full plan.
    pub(super) fn complete(&mut self, plan: &mut Plan) {
        if let Some(api_server) = &mut self.api_server {
            api_server.keep_endpoints(&mut plan.frontends);
        }
        plan.frontends.extend(self.probe_services.frontends());
    }

    fn write(&mut self) -> Synced {
        self.sync_other_nodes();
        if !self.index.is_complete() {
            self.next_sync.require(NextSync::Full);
        }
        if self.node_addresses.service_use_changed(&self.index) {
            self.next_sync.require(NextSync::CheckAddresses);
        }
        match self.next_sync.scope(|| self.node_addresses.update(&self.index)) {
            Scope::Changes => self.sync_changes(),
            Scope::Full => self.sync_full(Vec::new()),
        }
    }

    /// Writes the addresses of the other nodes, if they changed. A failure costs only them.
    fn sync_other_nodes(&mut self) {
        let Some(result) = self.node_addresses.sync_others(&self.index, &mut self.dataplane) else {
            return;
        };
        self.retry_queue.record_other_nodes(result.as_ref().err());
        if result.is_err() {
            self.metrics.sync_failed();
        }
    }

    /// Compares the whole plan with the maps, and writes what differs. `changes` are those that were taken
    /// from the index already.
    fn sync_full(&mut self, mut changes: Vec<ServicePlan>) -> Synced {
        changes.extend(self.index.changes().services);
        self.node_addresses.update(&self.index);
        let mut plan = self.index.plan();
        self.complete(&mut plan);
        let (report, result) = self.dataplane.sync(&plan, self.node_addresses.current());
        self.metrics.count_sync(SyncScope::Full);
        self.retry_queue.record_full(&report.errors);
        self.record_programmed(&changes);
        (report, result)
    }

    /// Writes the services that changed and are not throttled.
    fn sync_changes(&mut self) -> Synced {
        let batch = self.throttle.batch(Instant::now(), |service| self.index.is_waiting(service));
        let mut changes = self.index.changes_except(|service| batch.is_throttled(service));
        let next_batch = batch.next();
        self.keep_endpoints(&mut changes.services);
        if !self.dataplane.is_local(&changes.services) {
            return self.sync_full(changes.services);
        }
        self.throttle.wait_until(next_batch.filter(|_| self.index.has_waiting()));
        // An address that moves from one service to another must be in one step.
        let (costly, cheap): (Vec<_>, Vec<_>) = changes.services.into_iter().partition(|change| {
            !changes.addresses_moved && self.throttle.is_costly(&change.service)
        });
        let (mut all, mut result) = (SyncReport::default(), Ok(()));
        for services in [cheap, costly] {
            if !services.is_empty() {
                let (report, synced) = self.dataplane.sync_services(&services);
                self.metrics.count_sync(SyncScope::Changes);
                self.retry_queue.record_services(&services, &report.errors);
                self.record_programmed(&services);
                all.merge(report);
                result = result.and(synced);
            }
        }
        (all, result)
    }

    /// As [`Self::complete`], for single services.
    fn keep_endpoints(&mut self, services: &mut [ServicePlan]) {
        let Some(api_server) = &mut self.api_server else { return };
        if let Some(plan) = services.iter_mut().find(|plan| api_server.is(&plan.service)) {
            api_server.keep_endpoints(&mut plan.frontends);
        }
    }

    /// Records changes that are in the kernel now.
    fn record_programmed(&mut self, changes: &[ServicePlan]) {
        let now = Instant::now();
        for change in changes {
            self.throttle.record(&change.service, throttle::cost(change), now);
        }
        // The objects of the first sync are older than this agent.
        if self.shared.is_ready() {
            let causes = changes.iter().flat_map(|change| &change.causes);
            causes.for_each(|cause| self.metrics.programmed(cause));
        }
    }

    /// Records a sync that succeeded, but for the service ports in the report.
    fn synced(&mut self, report: &SyncReport, began: Instant) {
        if !report.errors.is_empty() {
            self.metrics.sync_failed();
        }
        self.publish_unsynced();
        self.publisher.unconfirmed(report.services_unconfirmed);
        if report.services_released > 0 {
            tracing::warn!(
                services = report.services_released,
                "no agent has confirmed these services within --fail-open-after: calls to them are bypassed \
                 until their objects can be read"
            );
        }
        // What is unconfirmed is as old as the last renewal by the earlier agent. It is released when it is
        // too old (`Heartbeat::is_overdue`), so the heartbeat starts in any case. What is retained does not
        // delay it: it is released then as well.
        if self.next_sync != NextSync::Unconfirmed {
            self.heartbeat.start();
        }
        // Also while some services are throttled, which may be all the time.
        let took = began.elapsed();
        self.metrics.synced(took);
        self.shared.update(|status| {
            status.last_sync_time = Some(Timestamp::now());
            status.last_sync_duration = Some(took);
            status.syncs += 1;
        });
        if self.shared.is_ready() {
            tracing::debug!(
                changed = report.services_changed,
                removed = report.services_removed,
                microseconds = took.as_micros(),
                "synced"
            );
        } else if self.dataplane.is_attached() {
            self.publish();
            let usage = self.dataplane.usage();
            tracing::info!(
                services = usage.services,
                frontends = usage.frontends,
                backends = usage.allocator.backends,
                milliseconds = took.as_millis(),
                "the first full sync is in the kernel"
            );
            self.shared.set_ready();
        } else {
            self.publish();
            if self.shared.wait_for(ANOTHER_LAYOUT) {
                tracing::warn!("waiting for {ANOTHER_LAYOUT}");
            }
        }
    }

    fn publish_unsynced(&mut self) {
        if self.retry_queue.take_changed() {
            self.publisher.unsynced(self.retry_queue.ports());
        }
    }
}
