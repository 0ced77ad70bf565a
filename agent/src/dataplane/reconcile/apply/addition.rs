//! What a service port gets: room for it, then backends and slots where no program reads.

use std::sync::Arc;

use sockline_ebpf::{
    backend::{Backend, Scopes},
    id::{BackendId, SlotIndex},
};

use crate::{
    dataplane::{
        error::DataplaneError,
        maps::allocator::{Allocator, WaitPolicy, alias},
        reconcile::{
            Endpoint, InstalledBackend, ServicePortState, SlotRange,
            encode::{self, DesiredServicePort},
        },
    },
    model::plan,
};

/// What a service port needs in addition to what it has. Room for it is taken before any of it is
/// written.
pub(super) struct Addition<'a> {
    /// Endpoints that are new, as they are planned, and their scopes.
    backends: foldhash::HashMap<Endpoint, (plan::Backend, Scopes)>,
    /// Sets that known endpoints need as well.
    scopes: Vec<(Endpoint, Scopes)>,
    /// Lists without slots, and where theirs will begin.
    slot_ranges: Vec<(SlotIndex, &'a Arc<[plan::Backend]>)>,
}

impl<'a> Addition<'a> {
    pub(super) fn take(
        allocator: &mut Allocator,
        installed: Option<&ServicePortState>,
        service_port: &DesiredServicePort<'a>,
        wait_policy: WaitPolicy,
    ) -> Result<Self, DataplaneError> {
        let mut addition = Self {
            backends: foldhash::HashMap::default(),
            scopes: Vec::new(),
            slot_ranges: Vec::new(),
        };
        let lists = encode::lists(service_port);
        for (list, scopes) in &lists {
            for &backend in list.iter() {
                let endpoint = (backend.address, backend.port);
                match installed.and_then(|installed| installed.backends.get(&endpoint)) {
                    Some(known) if !known.scopes.contains(*scopes) => {
                        addition.scopes.push((endpoint, *scopes));
                    }
                    Some(_) => {}
                    None => {
                        let added = addition.backends.entry(endpoint);
                        added.or_insert((backend, Scopes::empty())).1 |= *scopes;
                    }
                }
            }
        }
        allocator.make_room(number(addition.backends.len()), wait_policy)?;
        for (list, _) in lists {
            let has_slots = installed.is_some_and(|installed| {
                installed.slot_ranges.iter().any(|known| known.is_of(list))
            }) || addition.slot_ranges.iter().any(|(_, taken)| *taken == list);
            if list.is_empty() || has_slots {
                continue;
            }
            match allocator.take_slots(length(list), wait_policy) {
                Ok(start) => addition.slot_ranges.push((start, list)),
                Err(error) => {
                    addition.give_back(allocator);
                    return Err(error);
                }
            }
        }
        Ok(addition)
    }

    pub(super) fn give_back(self, allocator: &mut Allocator) {
        for (start, list) in self.slot_ranges {
            allocator.withdraw_slots(start, length(list));
        }
    }

    /// Writes backends and slots where no program reads: all of them, or none.
    pub(super) fn write(
        self,
        allocator: &mut Allocator,
        installed: &mut ServicePortState,
    ) -> Result<(), DataplaneError> {
        let mut added = Vec::with_capacity(self.backends.len());
        let mut written = Ok(());
        for &(planned, scopes) in self.backends.values() {
            let plan::Backend { address, port, weight, traffic_class } = planned;
            let backend = Backend {
                address: address.into(),
                service: installed.id,
                port: port.to_be(),
                weight,
                scopes,
                class: encode::traffic_class(traffic_class).byte(),
                ..Backend::default()
            };
            match allocator.add_backend(backend) {
                Ok((id, generation)) => {
                    let known = InstalledBackend { id, scopes, weight, traffic_class, generation };
                    installed.backends.insert((address, port), known);
                    added.push((address, port));
                }
                Err(error) => {
                    written = Err(error);
                    break;
                }
            }
        }
        for (start, list) in &self.slot_ranges {
            if written.is_ok() {
                let slot_range = SlotRange { start: *start, members: Arc::clone(list) };
                let table = alias::table(&members(installed, &slot_range));
                written = allocator.write_slots(*start, &table);
            }
        }
        if let Err(error) = written {
            for endpoint in added {
                if let Some(known) = installed.backends.remove(&endpoint) {
                    allocator.withdraw_backend(known.id)?;
                }
            }
            self.give_back(allocator);
            return Err(error);
        }
        for (endpoint, scopes) in &self.scopes {
            if let Some(known) = installed.backends.get_mut(endpoint) {
                known.scopes |= *scopes;
                known.write(allocator)?;
            }
        }
        let slot_ranges = self.slot_ranges.into_iter();
        installed.slot_ranges.extend(
            slot_ranges.map(|(start, list)| SlotRange { start, members: Arc::clone(list) }),
        );
        Ok(())
    }
}

/// Ids and weights of a slot range's backends.
pub(in crate::dataplane::reconcile) fn members(
    installed: &ServicePortState,
    slot_range: &SlotRange,
) -> Vec<(BackendId, u16)> {
    slot_range
        .members
        .iter()
        .filter_map(|backend| {
            let known = installed.backends.get(&(backend.address, backend.port))?;
            Some((known.id, backend.weight))
        })
        .collect()
}

pub(super) fn length(list: &[plan::Backend]) -> u32 {
    number(list.len())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
