//! What no frontend refers to any more.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use sockline_ebpf::{backend::Scopes, id::SlotIndex};

use crate::dataplane::{
    error::DataplaneError,
    maps::service_names::ServiceKey,
    reconcile::{Endpoint, Reconciler, report::SyncReport},
};

impl Reconciler {
    /// Frees what no frontend of a service refers to, and updates which frontends may use the other
    /// backends.
    pub(in crate::dataplane::reconcile) fn release_unused(
        &mut self,
        key: &ServiceKey,
        report: &mut SyncReport,
    ) -> Result<(), DataplaneError> {
        let Some(installed) = self.service_ports.get_mut(key) else { return Ok(()) };
        let entries = self.frontends.entries();
        let mut scopes_of_slot_ranges: HashMap<SlotIndex, Scopes> = HashMap::new();
        for key in &installed.keys {
            if let Some(entry) = entries.get(key)
                && entry.service == installed.id
                && entry.slot_count > 0
            {
                *scopes_of_slot_ranges.entry(entry.slot_start).or_default() |= entry.scope;
            }
        }
        let longest = installed.slot_ranges.iter().map(|slot_range| slot_range.members.len()).max();
        let mut scopes: foldhash::HashMap<Endpoint, Scopes> =
            foldhash::HashMap::with_capacity_and_hasher(
                longest.unwrap_or(0),
                RandomState::default(),
            );
        let allocator = &mut self.allocator;
        installed.slot_ranges.retain(|slot_range| {
            let Some(&scope) = scopes_of_slot_ranges.get(&slot_range.start) else {
                allocator.remove_slots(
                    slot_range.start,
                    u32::try_from(slot_range.members.len()).unwrap_or(0),
                );
                return false;
            };
            for backend in slot_range.members.iter() {
                *scopes.entry((backend.address, backend.port)).or_default() |= scope;
            }
            true
        });
        installed.damaged.retain(|slots| {
            let is_used = scopes_of_slot_ranges.contains_key(&slots.start);
            if !is_used {
                allocator.remove_slots(slots.start, slots.end.0 - slots.start.0);
            }
            is_used
        });
        // It is not known which backends they lead to.
        let keeps_all = !installed.damaged.is_empty();
        let mut first_error = Ok(());
        installed.backends.retain(|endpoint, known| {
            let result = match scopes.get(endpoint) {
                None if keeps_all => Ok(()),
                None => {
                    report.backends_removed += 1;
                    allocator.remove_backend(known.id, known.generation)
                }
                Some(&wanted) if wanted != known.scopes => {
                    known.scopes = wanted;
                    known.write(allocator)
                }
                Some(_) => Ok(()),
            };
            if first_error.is_ok() {
                first_error = result;
            }
            keeps_all || scopes.contains_key(endpoint)
        });
        first_error
    }
}
