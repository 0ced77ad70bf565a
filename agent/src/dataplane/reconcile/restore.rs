//! Restores what an earlier agent left in the maps. Ids stay; only consistent entries are trusted.

use std::collections::{BTreeMap, HashSet};

use sockline_ebpf::{
    backend::Backend,
    frontend::Frontend,
    id::{BackendId, ServiceId, SlotIndex},
};

use super::{InstalledBackend, Reconciler, ServicePortState, SlotRange, encode};
use crate::{
    dataplane::{
        error::DataplaneError,
        maps::service_names::{self, ServiceKey},
    },
    model::{
        object::{ObjectName, Protocol},
        plan,
    },
};

/// A key for a service whose name is lost or a duplicate. No plan has it, so it is served unchanged
/// until a plan is complete.
fn nameless(id: ServiceId) -> ServiceKey {
    ServiceKey {
        service: ObjectName::new("", id.to_string()),
        port_name: "".into(),
        protocol: Protocol::Tcp,
    }
}

/// Every service of Kubernetes is in a namespace.
fn is_nameless(key: &ServiceKey) -> bool {
    key.service.namespace.is_empty()
}

impl Reconciler {
    /// Returns the backends that belong to a service.
    pub(super) fn restore(&mut self) -> Result<HashSet<BackendId>, DataplaneError> {
        let mut names = service_names::read_all(self.names.map())?;
        let mut by_service: BTreeMap<ServiceId, Vec<Frontend>> = BTreeMap::new();
        for frontend in self.frontends.entries().values() {
            if frontend.key.is_node_mark() {
                self.at_node.marks.insert(frontend.key);
                continue;
            }
            by_service.entry(frontend.service).or_default().push(*frontend);
        }
        let mut restored = HashSet::new();
        for (id, frontends) in by_service {
            let named = names.remove(&id).filter(|key| !self.service_ports.contains_key(key));
            let key = named.unwrap_or_else(|| nameless(id));
            self.allocator.restore_service(id);
            let mut installed = ServicePortState { id, ..ServicePortState::default() };
            for frontend in frontends {
                installed.keys.insert(frontend.key);
                self.restore_slot_range(&mut installed, &frontend, &mut restored);
            }
            self.service_ports.insert(key, installed);
        }
        // Names of services without a frontend: an agent was killed between two steps.
        for (id, key) in names {
            service_names::remove(&mut self.names, id, &key);
        }
        Ok(restored)
    }

    /// Whether everything in the maps could be restored.
    pub(super) fn is_sound(&self) -> bool {
        let slot_ranges: HashSet<(ServiceId, SlotIndex)> = self
            .service_ports
            .values()
            .flat_map(|installed| {
                installed.slot_ranges.iter().map(|slot_range| (installed.id, slot_range.start))
            })
            .collect();
        !self.service_ports.keys().any(is_nameless)
            && self.frontends.entries().values().all(|frontend| {
                frontend.slot_count == 0
                    || slot_ranges.contains(&(frontend.service, frontend.slot_start))
            })
    }

    /// Restores a frontend's slots and backends. If some are damaged, the others keep serving, and
    /// the first sync writes all of them again.
    fn restore_slot_range(
        &mut self,
        installed: &mut ServicePortState,
        frontend: &Frontend,
        restored: &mut HashSet<BackendId>,
    ) {
        let (start, count) = (frontend.slot_start, frontend.slot_count);
        let slots = start..SlotIndex(start.0.saturating_add(count));
        if count == 0
            || installed.slot_ranges.iter().any(|slot_range| slot_range.start == start)
            || installed.damaged.contains(&slots)
        {
            return;
        }
        let mut members = BTreeMap::new();
        let mut is_sound = true;
        for index in (slots.start.0..slots.end.0).map(SlotIndex) {
            // No such slots: another process wrote the frontend.
            let Some(slot) = self.allocator.slot(index) else { return };
            for id in [slot.backend, slot.alias] {
                match self.allocator.backend(id) {
                    Some(backend) if backend.service == installed.id => {
                        members.insert(id, backend);
                    }
                    _ => is_sound = false,
                }
            }
        }
        is_sound &= members.len() == count as usize;
        let mut list = Vec::new();
        for (id, backend) in members {
            let (address, port) = (backend.address.into(), u16::from_be(backend.port));
            let traffic_class = encode::traffic_class_of(backend.class);
            let known = installed.backends.get(&(address, port));
            if known.is_some_and(|known| known.id != id) {
                // One endpoint has one entry.
                is_sound = false;
                continue;
            }
            if restored.insert(id) {
                self.allocator.restore_backend(id);
                let Backend { scopes, weight, generation, .. } = backend;
                let known = InstalledBackend { id, scopes, weight, traffic_class, generation };
                installed.backends.insert((address, port), known);
            }
            list.push(plan::Backend { address, port, weight: backend.weight, traffic_class });
        }
        // Slots that another service has too must not be freed by this one.
        if !self.allocator.restore_slots(start, count) {
            return;
        }
        if is_sound {
            list.sort_unstable();
            installed.slot_ranges.push(SlotRange { start, members: list.into() });
        } else {
            tracing::warn!(
                service = %installed.id,
                slot = %start,
                "some slots have no backend: connects that choose them are not translated until the first \
                 sync"
            );
            installed.damaged.push(slots);
        }
    }
}
