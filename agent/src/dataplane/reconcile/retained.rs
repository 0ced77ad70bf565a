//! Services with an invalid object: what the maps hold of them stays unchanged.
//!
//! That includes their addresses. The plan may give one to another service, since it ignores claims
//! of invalid objects; that service gets it when the retention ends. It gets it at once if its kind of
//! address ranks higher ([`Rank`]): no object of the retained service could keep it.

use std::collections::{BTreeSet, HashSet};

use sockline_ebpf::{frontend::FrontendKey, id::ServiceId};

use super::{Reconciler, encode};
use crate::{
    dataplane::maps::service_names::ServiceKey,
    model::{conflict::Rank, object::ObjectName, plan},
};

#[derive(Debug, Default)]
pub(super) struct Retained {
    services: BTreeSet<ObjectName>,
    /// The ids of their ports in the kernel, as of the sync that runs.
    ids: HashSet<ServiceId>,
    /// Other service ports that did not get an address because of it.
    pub(super) waiting_for_address: BTreeSet<ServiceKey>,
    /// Retained service ports that lost an address in the sync that runs.
    pub(super) lost: Vec<ServiceKey>,
    /// A retention ended: others may get the addresses with the next full sync.
    pub(super) ended: bool,
}

impl Retained {
    pub(super) fn contains(&self, service: &ObjectName) -> bool {
        self.services.contains(service)
    }
}

impl Reconciler {
    /// Sets the retained services: what the maps hold of them stays unchanged, even if an earlier
    /// agent wrote it.
    pub fn retain(&mut self, services: &BTreeSet<ObjectName>) {
        if self.retained.services == *services {
            return;
        }
        let is_over = self.retained.services.difference(services).next().is_some();
        self.retained.services.clone_from(services);
        if is_over {
            self.retry_waiting_for_address();
        }
    }

    /// Marks services as deleted. What the maps hold of them is not retained, even if there is another
    /// service with the same name that is: that one has nothing in the maps yet.
    pub fn mark_deleted(&mut self, services: &BTreeSet<ObjectName>) {
        let mut was_retained = false;
        for service in services {
            was_retained |= self.retained.contains(service);
            let keys: Vec<ServiceKey> = self.ports_of(service).cloned().collect();
            for key in keys {
                if let Some(installed) = self.service_ports.get_mut(&key) {
                    installed.is_deleted = true;
                    installed.source.clear();
                }
            }
        }
        if !self.released.is_empty() {
            self.released.retain(|key, _| !services.contains(&key.service));
        }
        if was_retained {
            self.retry_waiting_for_address();
        }
    }

    /// Makes the next full sync apply the waiting service ports again. It finds those whose address is
    /// still retained.
    fn retry_waiting_for_address(&mut self) {
        for key in &self.retained.waiting_for_address {
            if let Some(installed) = self.service_ports.get_mut(key) {
                installed.source.clear();
                self.retained.ended = true;
            }
        }
    }

    /// Whether a service port is in the maps and retained.
    pub(super) fn is_retained(&self, key: &ServiceKey) -> bool {
        self.retained.contains(&key.service)
            && self.service_ports.get(key).is_some_and(|installed| !installed.is_deleted)
    }

    /// Service ports that are retained, see [`Self::retain`].
    pub fn retained(&self) -> usize {
        self.retained_ports().count()
    }

    /// Service ports that lack an address because a retained service has it.
    pub fn waiting_for_address(&self) -> usize {
        self.retained.waiting_for_address.len()
    }

    /// Whether a retained service port was in no plan of this process yet.
    pub fn has_unconfirmed_retained(&self) -> bool {
        self.retained_ports()
            .any(|key| self.service_ports.get(key).is_some_and(|known| !known.confirmed))
    }

    fn retained_ports(&self) -> impl Iterator<Item = &ServiceKey> {
        let ports = self.retained.services.iter().flat_map(|service| self.ports_of(service));
        ports.filter(|key| self.is_retained(key))
    }

    /// To be called before service ports are applied.
    pub(super) fn update_retained_ids(&mut self) {
        let (released, stay): (Vec<_>, Vec<_>) =
            self.retained_ports().partition(|key| self.is_to_be_released(key));
        let ids = stay.into_iter().filter_map(|key| self.service_ports.get(key));
        let (ids, releases) = (ids.map(|known| known.id).collect(), !released.is_empty());
        self.retained.ids = ids;
        if releases {
            self.retry_waiting_for_address();
        }
    }

    /// Whether a retained service keeps an address that another service port is to get.
    pub(super) fn is_address_retained(&self, frontend: &plan::Frontend, key: &FrontendKey) -> bool {
        self.retained_owner(key).is_some()
            && self.frontends.entries().get(key).is_some_and(|entry| {
                encode::kind_of(entry.kind)
                    .is_some_and(|kind| Rank::of(kind) <= Rank::of(frontend.kind))
            })
    }

    /// The id of the retained service port that has an address.
    pub(super) fn retained_owner(&self, key: &FrontendKey) -> Option<ServiceId> {
        if self.retained.ids.is_empty() {
            return None;
        }
        self.owner_of(key).filter(|owner| self.retained.ids.contains(owner))
    }

    /// Records which frontend of a service port waits for its address, if one does. Logs it the first
    /// time.
    pub(super) fn set_waiting_for_address(
        &mut self,
        port: &ServiceKey,
        frontend: Option<&plan::Frontend>,
    ) {
        let Some(frontend) = frontend else {
            self.retained.waiting_for_address.remove(port);
            return;
        };
        if self.retained.waiting_for_address.insert(port.clone()) {
            tracing::warn!(
                service = %frontend.service,
                address = %frontend.address,
                port = frontend.port,
                "the address stays with a service of which an object cannot be used"
            );
        }
    }

    /// Records that retained service ports lost these addresses to another one.
    pub(super) fn take_from_retained(&mut self, taken: &[(FrontendKey, ServiceId)]) {
        for &(key, owner) in taken {
            let owner = self.service_ports.iter_mut().find(|(_, installed)| installed.id == owner);
            let Some((port, installed)) = owner else { continue };
            installed.keys.remove(&key);
            // It is not what was applied last.
            installed.source.clear();
            self.retained.lost.push(port.clone());
        }
    }
}
