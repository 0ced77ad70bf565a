//! Applies the plan of one service port.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use sockline_ebpf::{
    backend::Backend,
    frontend::{Frontend, FrontendKey},
    id::{BackendId, ServiceId, SlotIndex},
};

use super::{
    Endpoint, InstalledBackend, ObsoleteFrontends, Reconciler, ServicePortState, SlotRange,
    encode::{self, DesiredServicePort},
    report::SyncReport,
};
use crate::{
    bpf::error::Full,
    dataplane::{
        error::DataplaneError,
        maps::{
            SERVICE_NAMES,
            allocator::{Allocator, SERVICE_IDS, WaitPolicy, alias},
            service_names::{self, ServiceKey},
        },
    },
    model::plan::{self, Action},
};

impl Reconciler {
    pub(super) fn is_current(&self, service_port: &DesiredServicePort<'_>) -> bool {
        self.installed.get(&service_port.key).is_some_and(|installed| {
            installed.source.len() == service_port.frontends.len()
                && installed
                    .source
                    .iter()
                    .zip(&service_port.frontends)
                    .all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }

    /// Whether a service that an earlier agent forwarded, and that was in no plan of this process
    /// yet, would now be refused because it has no endpoints.
    pub(super) fn would_cut_off(&self, service_port: &DesiredServicePort<'_>) -> bool {
        let Some(installed) =
            self.installed.get(&service_port.key).filter(|known| !known.confirmed)
        else {
            return false;
        };
        let is_forwarded = |address| {
            self.frontends.entries().get(&address).is_some_and(|entry| {
                entry.service == installed.id && encode::action_of(entry.action) == Action::Forward
            })
        };
        service_port.frontends.iter().filter(|frontend| frontend.action == Action::Refuse).any(
            |frontend| {
                encode::addresses(frontend, self.at_node.addresses())
                    .into_iter()
                    .any(|address| is_forwarded(encode::key(frontend, address)))
            },
        )
    }

    /// Applies a service port in full or not at all: room for all of it is taken before the first
    /// frontend changes.
    pub(super) fn apply(
        &mut self,
        service_port: &DesiredServicePort<'_>,
        obsolete: &mut ObsoleteFrontends,
        wait_policy: WaitPolicy,
    ) -> Result<(), DataplaneError> {
        if let Some(installed) = self.installed.get_mut(&service_port.key) {
            installed.source.clear();
            installed.confirmed = true;
        }
        self.released.remove(&service_port.key);
        let desired_frontends = self.desired_frontends(service_port);
        let taken: Vec<(FrontendKey, ServiceId)> = desired_frontends
            .iter()
            .filter_map(|(_, key)| Some((*key, self.retained_owner(key)?)))
            .collect();
        let entries = self.frontends.entries();
        let more = desired_frontends.iter().filter(|(_, key)| !entries.contains_key(key)).count();
        self.frontends.reserve(more)?;
        let addition = Addition::take(
            &mut self.allocator,
            self.installed.get(&service_port.key),
            service_port,
            wait_policy,
        )?;
        if !self.installed.contains_key(&service_port.key) {
            match self.new_id(&service_port.key) {
                Ok(id) => {
                    let new =
                        ServicePortState { id, confirmed: true, ..ServicePortState::default() };
                    self.installed.insert(service_port.key.clone(), new);
                }
                Err(error) => {
                    addition.give_back(&mut self.allocator);
                    return Err(error);
                }
            }
        }
        let Some(installed) = self.installed.get_mut(&service_port.key) else { return Ok(()) };
        let written = addition.write(&mut self.allocator, installed).and_then(|()| {
            let entries =
                desired_frontends.iter().map(|(frontend, key)| entry(installed, frontend, *key));
            self.frontends.set_all(&entries.collect::<Vec<_>>())
        });
        written?;
        change_weights(&mut self.allocator, installed, service_port)?;
        let keys: BTreeSet<FrontendKey> =
            desired_frontends.into_iter().map(|(_, key)| key).collect();
        obsolete.extend(installed.keys.difference(&keys).map(|key| (*key, installed.id)));
        installed.keys = keys;
        installed.source =
            service_port.frontends.iter().map(|&frontend| Arc::clone(frontend)).collect();
        installed.is_deleted = false;
        self.take_from_retained(&taken);
        Ok(())
    }

    /// The keys of a service port's frontends, without addresses of the node where a NodePort is, and those that
    /// a retained service has.
    fn desired_frontends<'a>(
        &mut self,
        service_port: &DesiredServicePort<'a>,
    ) -> Vec<(&'a plan::Frontend, FrontendKey)> {
        let mut desired_frontends = Vec::with_capacity(service_port.frontends.len());
        let mut waiting = None;
        for &frontend in &service_port.frontends {
            for address in encode::addresses(frontend, self.at_node.addresses()) {
                let key = encode::key(frontend, address);
                if self.at_node.loses(frontend, key) {
                    continue;
                }
                if self.is_address_retained(frontend, &key) {
                    waiting = Some(&**frontend);
                } else {
                    desired_frontends.push((&**frontend, key));
                }
            }
        }
        self.set_waiting_for_address(&service_port.key, waiting);
        desired_frontends
    }

    fn new_id(&mut self, key: &ServiceKey) -> Result<ServiceId, DataplaneError> {
        let id =
            self.allocator.add_service().ok_or(Full { map: SERVICE_NAMES, limit: SERVICE_IDS })?;
        // Counters that a program of an earlier service with this id may have written late.
        let _ = self.counters.remove(&id);
        if let Err(error) = service_names::write(&mut self.names, id, key) {
            self.allocator.withdraw_service(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Frees what no frontend of a service refers to, and updates which frontends may use the other
    /// backends.
    pub(super) fn release_unused(
        &mut self,
        key: &ServiceKey,
        report: &mut SyncReport,
    ) -> Result<(), DataplaneError> {
        let Some(installed) = self.installed.get_mut(key) else { return Ok(()) };
        let entries = self.frontends.entries();
        let mut scopes_of_slot_ranges: HashMap<SlotIndex, u8> = HashMap::new();
        for key in &installed.keys {
            if let Some(entry) = entries.get(key)
                && entry.service == installed.id
                && entry.slot_count > 0
            {
                *scopes_of_slot_ranges.entry(entry.slot_start).or_default() |= entry.scope;
            }
        }
        let longest = installed.slot_ranges.iter().map(|slot_range| slot_range.members.len()).max();
        let mut scopes: foldhash::HashMap<Endpoint, u8> =
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
                    allocator.remove_backend(known.id)
                }
                Some(&wanted) if wanted != known.scopes => {
                    known.scopes = wanted;
                    allocator.change_backend(known.id, wanted, known.weight)
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

/// What a service port needs in addition to what it has. Room for it is taken before any of it is
/// written.
struct Addition<'a> {
    /// Endpoints that are new, with their weights and scopes.
    backends: foldhash::HashMap<Endpoint, (u16, u8)>,
    /// Sets that known endpoints need as well.
    scopes: Vec<(Endpoint, u8)>,
    /// Lists without slots, and where theirs will begin.
    slot_ranges: Vec<(SlotIndex, &'a Arc<[plan::Backend]>)>,
}

impl<'a> Addition<'a> {
    fn take(
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
            for &plan::Backend { address, port, weight } in list.iter() {
                let endpoint = (address, port);
                match installed.and_then(|installed| installed.backends.get(&endpoint)) {
                    Some(known) if known.scopes | scopes != known.scopes => {
                        addition.scopes.push((endpoint, *scopes));
                    }
                    Some(_) => {}
                    None => addition.backends.entry(endpoint).or_insert((weight, 0)).1 |= scopes,
                }
            }
        }
        allocator.make_room(number(addition.backends.len()), wait_policy)?;
        for (list, _) in lists {
            let has_slots = installed.is_some_and(|installed| {
                installed.slot_ranges.iter().any(|known| known.members == *list)
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

    fn give_back(self, allocator: &mut Allocator) {
        for (start, list) in self.slot_ranges {
            allocator.withdraw_slots(start, length(list));
        }
    }

    /// Writes backends and slots where no program reads: all of them, or none.
    fn write(
        self,
        allocator: &mut Allocator,
        installed: &mut ServicePortState,
    ) -> Result<(), DataplaneError> {
        let mut added = Vec::with_capacity(self.backends.len());
        let mut written = Ok(());
        for (&(address, port), &(weight, scopes)) in &self.backends {
            let backend = Backend {
                address: address.into(),
                service: installed.id,
                port: port.to_be(),
                weight,
                scopes,
                ..Backend::default()
            };
            match allocator.add_backend(backend) {
                Ok(id) => {
                    installed
                        .backends
                        .insert((address, port), InstalledBackend { id, scopes, weight });
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
                known.scopes |= scopes;
                allocator.change_backend(known.id, known.scopes, known.weight)?;
            }
        }
        let slot_ranges = self.slot_ranges.into_iter();
        installed.slot_ranges.extend(
            slot_ranges.map(|(start, list)| SlotRange { start, members: Arc::clone(list) }),
        );
        Ok(())
    }
}

/// The entry of a frontend whose backends and slots are written.
fn entry(
    installed: &mut ServicePortState,
    frontend: &plan::Frontend,
    key: FrontendKey,
) -> Frontend {
    let list = &frontend.backends;
    let slot_start =
        match installed.slot_ranges.iter_mut().find(|slot_range| slot_range.members == *list) {
            Some(slot_range) if !list.is_empty() => {
                // Drops the equal list, so that memory holds one.
                slot_range.members = Arc::clone(list);
                slot_range.start
            }
            _ => SlotIndex::default(),
        };
    Frontend {
        key,
        service: installed.id,
        slot_start,
        slot_count: length(list),
        affinity_seconds: frontend.affinity_seconds.unwrap_or(0),
        action: encode::action_number(frontend.action),
        reason: encode::reason_number(frontend.reason),
        kind: encode::kind_number(frontend.kind),
        balance: encode::balance_number(frontend.balance),
        scope: encode::scope(frontend.kind),
        padding: 0,
        node: frontend.of_node,
    }
}

/// Writes the weights that the slots were made with.
fn change_weights(
    allocator: &mut Allocator,
    installed: &mut ServicePortState,
    service_port: &DesiredServicePort<'_>,
) -> Result<(), DataplaneError> {
    for (list, _) in encode::lists(service_port) {
        for &plan::Backend { address, port, weight } in list.iter() {
            if let Some(known) = installed.backends.get_mut(&(address, port))
                && known.weight != weight
            {
                known.weight = weight;
                allocator.change_backend(known.id, known.scopes, weight)?;
            }
        }
    }
    Ok(())
}

fn length(list: &[plan::Backend]) -> u32 {
    number(list.len())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Ids and weights of a slot range's backends.
pub(super) fn members(
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
