//! Applies a whole plan, or the plans of some services, and removes what they no longer have.
//!
//! The order is that of the invariants of this folder: what is new is applied first, then frontends that are no
//! longer wanted are removed, then what nothing refers to is freed. Service ports that did not fit are tried
//! again after the removals, which may have made room.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use sockline_ebpf::{frontend::FrontendKey, id::ServiceId};

use super::{
    ObsoleteFrontends, Reconciler, ServicePortState, SlotRange,
    encode::{self, DesiredServicePort},
    report::{Removed, SyncError, SyncReport},
};
use crate::{
    dataplane::{
        error::DataplaneError,
        maps::{
            allocator::WaitPolicy,
            service_names::{self, ServiceKey},
        },
    },
    model::{
        object::{ObjectName, Protocol},
        plan::{self, ServicePlan},
        probe_service::is_probe,
    },
};

impl Reconciler {
    /// Whether a service port is removed instead of staying unchanged.
    pub(super) fn is_to_be_released(&self, key: &ServiceKey) -> bool {
        self.restored.is_stale()
            && self.service_ports.get(key).is_some_and(|known| !known.confirmed)
    }

    /// Whether a service port was released, and would now be refused although it may have
    /// endpoints.
    pub(super) fn is_released(&self, service_port: &DesiredServicePort<'_>) -> bool {
        self.released.contains_key(&service_port.key)
            && (self.unconfirmed.retains() || self.retained.contains(&service_port.key.service))
            && service_port.frontends.iter().any(|frontend| frontend.action == plan::Action::Refuse)
    }

    /// Applies a plan and removes what is not in it. Always handles the whole plan: a service that
    /// fails affects only itself.
    pub fn sync(&mut self, plan: &plan::Plan, node_addresses: &[IpAddr]) -> SyncReport {
        self.set_node(plan, node_addresses);
        let service_ports = encode::service_ports(&plan.frontends);
        let wanted: HashSet<&ServiceKey> =
            service_ports.iter().map(|service_port| &service_port.key).collect();
        let gone = self.service_ports.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        let report = self.apply_all(&service_ports, gone, WaitPolicy::Wait);
        self.retained.ended = false;
        self.prune_released(&service_ports, |_| true);
        report
    }

    /// Removes released service ports from the list that no longer exist according to the plan of their
    /// service. `planned` selects the services whose plan this is.
    pub(super) fn prune_released(
        &mut self,
        service_ports: &[DesiredServicePort<'_>],
        planned: impl Fn(&ObjectName) -> bool,
    ) {
        if self.released.is_empty() {
            return;
        }
        let wanted: HashSet<&ServiceKey> =
            service_ports.iter().map(|service_port| &service_port.key).collect();
        let readable: HashSet<&ObjectName> = wanted.iter().map(|key| &key.service).collect();
        let (retained, unconfirmed) = (&self.retained, self.unconfirmed);
        self.released.retain(|key, _| {
            let may_lack = unconfirmed.retains() || retained.contains(&key.service);
            // If the Service itself can be read, its ports are known.
            let may_exist = wanted.contains(key) || !readable.contains(&key.service);
            !planned(&key.service) || (may_lack && may_exist)
        });
    }

    /// Applies the plans of some services; the others stay unchanged.
    pub fn sync_services(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, WaitPolicy::Wait)
    }

    /// As [`Self::sync_services`], for services that did not fit before. Does not wait for pending
    /// entries, see [`Self::take_freed`].
    pub fn retry(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, WaitPolicy::Never)
    }

    /// Whether a map has more room than at the last call.
    pub const fn take_freed(&mut self) -> bool {
        let frontends = self.frontends_freed;
        self.frontends_freed = false;
        self.allocator.take_freed() || frontends
    }

    fn sync_some(&mut self, changes: &[ServicePlan], wait_policy: WaitPolicy) -> SyncReport {
        self.change_at_node(changes);
        let mut service_ports = Vec::new();
        let mut gone = Vec::new();
        for change in changes {
            let wanted = encode::service_ports(&change.frontends);
            gone.extend(
                self.ports_of(&change.service)
                    .filter(|key| wanted.iter().all(|service_port| service_port.key != **key))
                    .cloned(),
            );
            service_ports.extend(wanted);
        }
        let report = self.apply_all(&service_ports, gone, wait_policy);
        self.prune_released(&service_ports, |service| {
            changes.iter().any(|change| change.service == *service)
        });
        report
    }

    pub(super) fn ports_of(&self, service: &ObjectName) -> impl Iterator<Item = &ServiceKey> {
        let first =
            ServiceKey { service: service.clone(), port_name: "".into(), protocol: Protocol::Tcp };
        self.service_ports
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.service == *service)
    }

    fn apply_all(
        &mut self,
        service_ports: &[DesiredServicePort<'_>],
        gone: Vec<ServiceKey>,
        wait_policy: WaitPolicy,
    ) -> SyncReport {
        self.update_retained_ids();
        let mut report = SyncReport::default();
        let mut changed: Vec<&ServiceKey> = Vec::new();
        let mut obsolete = ObsoleteFrontends::new();
        let mut full: Vec<&DesiredServicePort<'_>> = Vec::new();
        if let Err(error) = self.reserve(service_ports) {
            // Each service that needs room asks for it again, and reports an error if there is
            // none.
            tracing::debug!("cannot make room in one go: {error}");
        }
        let mut released = Vec::new();
        for service_port in service_ports {
            if self.is_current(service_port) || self.is_released(service_port) {
                continue;
            }
            let is_retained = self.is_retained(&service_port.key);
            if is_retained || (self.unconfirmed.retains() && self.would_cut_off(service_port)) {
                if self.is_to_be_released(&service_port.key) {
                    released.push(service_port.key.clone());
                } else if !is_retained {
                    report.services_unconfirmed += 1;
                }
                continue;
            }
            changed.push(&service_port.key);
            match self.apply(service_port, &mut obsolete, WaitPolicy::Never) {
                Ok(()) => report.services_changed += 1,
                Err(error) if error.is_out_of_room() => full.push(service_port),
                Err(error) => report.failed(&service_port.key, error),
            }
        }
        let (stay, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|key| {
            self.is_retained(key)
                || (self.unconfirmed.retains()
                    && !is_probe(&key.service)
                    && self.service_ports.get(key).is_some_and(|known| !known.confirmed))
        });
        for key in stay {
            if self.is_to_be_released(&key) {
                released.push(key);
            } else if !self.is_retained(&key) {
                report.services_unconfirmed += 1;
            }
        }
        for key in &gone {
            let id = self.service_ports.get(key).map_or(ServiceId::NONE, |installed| installed.id);
            let keys = self.take_keys(key, &mut obsolete);
            report.removed.push(Removed { port: key.clone(), id, keys });
        }
        // Not in the report: it is not known whether the services are gone.
        let released: Vec<(ServiceKey, BTreeSet<FrontendKey>)> = released
            .into_iter()
            .map(|key| {
                let keys = self.take_keys(&key, &mut obsolete);
                (key, keys)
            })
            .collect();
        self.remove_obsolete(obsolete, &mut report);
        let released_keys = released.iter().map(|(key, _)| key);
        for key in changed.iter().copied().chain(&gone).chain(released_keys) {
            if let Err(error) = self.release_unused(key, &mut report) {
                report.failed(key, error);
            }
        }
        for key in changed {
            self.drop_if_unseen(key);
        }
        // The removals above may have made room. They could not come first: a service that takes
        // over another's address must find it in place.
        for service_port in full {
            let mut obsolete = ObsoleteFrontends::new();
            match self.apply(service_port, &mut obsolete, wait_policy) {
                Ok(()) => report.services_changed += 1,
                Err(error) => report.failed(&service_port.key, error),
            }
            self.remove_obsolete(obsolete, &mut report);
            if let Err(error) = self.release_unused(&service_port.key, &mut report) {
                report.failed(&service_port.key, error);
            }
            self.drop_if_unseen(&service_port.key);
        }
        for key in gone {
            if self.service_ports.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_removed += 1;
            }
        }
        for key in std::mem::take(&mut self.retained.lost) {
            if let Err(error) = self.release_unused(&key, &mut report) {
                report.failed(&key, error);
            }
        }
        for (key, keys) in released {
            if self.service_ports.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_released += 1;
                self.released.insert(key, keys);
            }
        }
        report
    }

    /// Removes all addresses from a service port.
    fn take_keys(
        &mut self,
        key: &ServiceKey,
        obsolete: &mut ObsoleteFrontends,
    ) -> BTreeSet<FrontendKey> {
        let Some(installed) = self.service_ports.get_mut(key) else { return BTreeSet::new() };
        obsolete.extend(installed.keys.iter().map(|key| (*key, installed.id)));
        std::mem::take(&mut installed.keys)
    }

    /// Removes a service port whose backends and slots were freed.
    fn drop(&mut self, key: &ServiceKey) {
        self.retained.waiting_for_address.remove(key);
        if let Some(installed) = self.service_ports.remove(key) {
            service_names::remove(&mut self.names, installed.id, key);
            // Absent if the service was never used.
            let _ = self.counters.remove(&installed.id);
            let _ = self.stats.remove(&installed.id);
            self.allocator.remove_service(installed.id);
        }
    }

    /// A new service port that did not fit must not keep anything.
    fn drop_if_unseen(&mut self, key: &ServiceKey) {
        let is_unseen = |known: &ServicePortState| known.keys.is_empty() && known.source.is_empty();
        if self.service_ports.get(key).is_some_and(is_unseen) {
            self.drop(key);
        }
    }

    fn remove_obsolete(&mut self, obsolete: ObsoleteFrontends, report: &mut SyncReport) {
        for (key, service) in obsolete {
            // Another service may have taken over the address in this sync.
            let is_its_own =
                self.frontends.entries().get(&key).is_some_and(|entry| entry.service == service);
            if !is_its_own {
                continue;
            }
            match self.frontends.remove(&key) {
                Ok(()) => self.frontends_freed = true,
                Err(error) => self.keep_obsolete(key, service, error, report),
            }
        }
    }

    /// A frontend that cannot be removed stays with its service, with all that it leads to, and is
    /// tried again with it.
    fn keep_obsolete(
        &mut self,
        key: FrontendKey,
        service: ServiceId,
        error: DataplaneError,
        report: &mut SyncReport,
    ) {
        let Some((name, installed)) =
            self.service_ports.iter_mut().find(|(_, installed)| installed.id == service)
        else {
            let object = format!("service {service}");
            report.errors.push(SyncError { object, port: None, error });
            return;
        };
        installed.keys.insert(key);
        installed.source.clear();
        report.failed(name, error);
    }

    /// Allocates memory for many services at once.
    fn reserve(&mut self, service_ports: &[DesiredServicePort<'_>]) -> Result<(), DataplaneError> {
        let (mut slots, mut backends) = (0, 0);
        for service_port in
            service_ports.iter().filter(|service_port| !self.is_current(service_port))
        {
            // The lists of one service port are mostly the same one.
            let longest =
                service_port.frontends.iter().map(|frontend| frontend.backends.len()).max();
            let (longest, known) =
                (longest.unwrap_or(0), self.service_ports.get(&service_port.key));
            // Restored services mostly match the plan; one that does not asks for room by itself.
            let restored = |slot_range: &SlotRange| slot_range.members.len() == longest;
            if !known
                .is_some_and(|known| !known.confirmed && known.slot_ranges.iter().any(restored))
            {
                slots += longest;
            }
            backends += longest.saturating_sub(known.map_or(0, |known| known.backends.len()));
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.allocator.reserve(number(slots), number(backends))
    }
}
