//! Services of which nothing can be said at the moment: what the kernel has of them stays as it is.
//!
//! That includes their addresses. The plan may give one to another service, since it has no claims of an
//! object that cannot be used; the other one gets it when the retention has ended.

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
    /// Service ports of others that did not get an address for it.
    waiting_for_address: BTreeSet<ServiceKey>,
    /// A service is retained no more, and others may get its addresses with the next sync of everything.
    pub(super) ended: bool,
}

impl Retained {
    pub(super) fn contains(&self, service: &ObjectName) -> bool {
        self.services.contains(service)
    }
}

impl Reconciler {
    /// What the kernel has of these services stays as it is, whoever put it there, until they are not
    /// among them any more.
    pub fn retain(&mut self, services: &BTreeSet<ObjectName>) {
        if self.retained.services == *services {
            return;
        }
        let is_over = self.retained.services.difference(services).next().is_some();
        self.retained.services.clone_from(services);
        if !is_over {
            return;
        }
        // Those that are still kept out will be found to be.
        for key in std::mem::take(&mut self.retained.waiting_for_address) {
            if let Some(installed) = self.installed.get_mut(&key) {
                installed.source.clear();
                self.retained.ended = true;
            }
        }
    }

    /// Whether a service port is there and stays as it is.
    pub(super) fn is_retained(&self, key: &ServiceKey) -> bool {
        self.retained.contains(&key.service) && self.installed.contains_key(key)
    }

    /// Service ports that stay as they are because an object cannot be used, see [`Self::retain`].
    pub fn retained(&self) -> usize {
        self.retained_ports().count()
    }

    fn retained_ports(&self) -> impl Iterator<Item = &ServiceKey> {
        self.retained.services.iter().flat_map(|service| self.ports_of(service))
    }

    /// To be called before service ports are installed.
    pub(super) fn update_retained_ids(&mut self) {
        let stay = self.retained_ports().filter(|key| !self.is_to_be_released(key));
        let ids = stay.filter_map(|key| self.installed.get(key)).map(|installed| installed.id);
        self.retained.ids = ids.collect();
    }

    /// Whether an address that a service port is to get is one that a retained service has; logs what is
    /// new of it.
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
