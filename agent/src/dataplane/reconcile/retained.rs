//! Services with an invalid object: what the maps hold of them stays unchanged.
//!
//! That includes their addresses. The plan may give one to another service, since it ignores claims
//! of invalid objects; that service gets it when the retention ends.

use std::collections::{BTreeSet, HashSet};

use sockline_ebpf::frontend::FrontendKey;

use super::Reconciler;
use crate::{
    dataplane::maps::service_names::ServiceKey,
    model::{object::ObjectName, plan},
};

#[derive(Debug, Default)]
pub(super) struct Retained {
    services: BTreeSet<ObjectName>,
    /// The ids of their ports in the kernel, as of the sync that runs.
    ids: HashSet<u32>,
    /// Other service ports that did not get an address because of it.
    waiting_for_address: BTreeSet<ServiceKey>,
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
        if !is_over {
            return;
        }
        // The next full sync finds those whose address is still retained.
        for key in std::mem::take(&mut self.retained.waiting_for_address) {
            if let Some(installed) = self.installed.get_mut(&key) {
                installed.source.clear();
                self.retained.ended = true;
            }
        }
    }

    /// Whether a service port is in the maps and retained.
    pub(super) fn is_retained(&self, key: &ServiceKey) -> bool {
        self.retained.contains(&key.service) && self.installed.contains_key(key)
    }

    /// Service ports that are retained, see [`Self::retain`].
    pub fn retained(&self) -> usize {
        self.retained_ports().count()
    }

    fn retained_ports(&self) -> impl Iterator<Item = &ServiceKey> {
        self.retained.services.iter().flat_map(|service| self.ports_of(service))
    }

    /// To be called before service ports are applied.
    pub(super) fn update_retained_ids(&mut self) {
        let stay = self.retained_ports().filter(|key| !self.is_to_be_released(key));
        let ids = stay.filter_map(|key| self.installed.get(key)).map(|installed| installed.id);
        self.retained.ids = ids.collect();
    }

    /// Whether a retained service has an address that another service port is to get. Logs it the
    /// first time.
    pub(super) fn is_address_retained(
        &mut self,
        port: &ServiceKey,
        frontend: &plan::Frontend,
        key: &FrontendKey,
    ) -> bool {
        if self.retained.ids.is_empty() {
            return false;
        }
        let owner = self.owner_of(key).filter(|owner| self.retained.ids.contains(owner));
        if owner.is_none() {
            return false;
        }
        if self.retained.waiting_for_address.insert(port.clone()) {
            tracing::warn!(
                service = %frontend.service,
                address = %frontend.address,
                port = frontend.port,
                "the address stays with a service of which an object cannot be used"
            );
        }
        true
    }
}
