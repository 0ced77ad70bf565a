//! Bringing one service port from what is in the kernel to what the plan says.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use sockline_ebpf::{backend::Backend, frontend::Frontend};

use super::{Endpoint, Extent, Installed, Known, Leftovers, Mirror, SyncReport};
use crate::{
    dataplane::{
        alias,
        desired::{self, Group},
        error::{DataplaneError, Full},
        maps::NAMES,
        names::{self, ServiceKey},
        pool::{Pool, SERVICE_IDS},
    },
    model::plan::{self, Action},
};

impl Mirror {
    pub(super) fn is_current(&self, group: &Group<'_>) -> bool {
        self.installed.get(&group.key).is_some_and(|installed| {
            installed.source.len() == group.frontends.len()
                && installed.source.iter().zip(&group.frontends).all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }

    /// Whether a service that an earlier agent forwarded, and that no plan of this process had yet,
    /// would be refused for want of endpoints.
    pub(super) fn would_cut_off(&self, group: &Group<'_>) -> bool {
        let Some(installed) = self.installed.get(&group.key).filter(|known| !known.confirmed)
        else {
            return false;
        };
        let is_forwarded = |address| {
            self.frontends.entries().get(&address).is_some_and(|entry| {
                entry.service == installed.id && desired::action_of(entry.action) == Action::Forward
            })
        };
        group.frontends.iter().filter(|frontend| frontend.action == Action::Refuse).any(
            |frontend| {
                desired::addresses(frontend, &self.node_addresses)
                    .into_iter()
                    .any(|address| is_forwarded(desired::key(frontend, address)))
            },
        )
    }

    pub(super) fn install(
        &mut self,
        group: &Group<'_>,
        leftovers: &mut Leftovers,
    ) -> Result<(), DataplaneError> {
        if !self.installed.contains_key(&group.key) {
            let id = self.new_id(&group.key)?;
            self.installed.insert(group.key.clone(), Installed { id, ..Installed::default() });
        }
        let Some(installed) = self.installed.get_mut(&group.key) else { return Ok(()) };
        installed.source.clear();
        installed.confirmed = true;
        add_backends(&mut self.pool, installed, group)?;
        let mut desired_keys = BTreeSet::new();
        for frontend in &group.frontends {
            let (slot_start, slot_count) = extent(&mut self.pool, installed, &frontend.backends)?;
            for address in desired::addresses(frontend, &self.node_addresses) {
                let key = desired::key(frontend, address);
                let is_node_port = frontend.address == plan::FrontendAddress::Node;
                if is_node_port && self.shadowed.contains(&key) {
                    continue;
                }
                desired_keys.insert(key);
                self.frontends.set(Frontend {
                    key,
                    service: installed.id,
                    slot_start,
                    slot_count,
                    affinity_seconds: frontend.affinity_seconds.unwrap_or(0),
                    action: desired::action_number(frontend.action),
                    reason: desired::reason_number(frontend.reason),
                    kind: desired::kind_number(frontend.kind),
                    balance: desired::balance_number(frontend.balance),
                    set: desired::set(frontend.kind),
                    padding: [0; 3],
                })?;
                installed.keys.insert(key);
            }
        }
        leftovers.extend(installed.keys.difference(&desired_keys).map(|key| (*key, installed.id)));
        installed.keys = desired_keys;
        installed.source = group.frontends.iter().map(|&frontend| Arc::clone(frontend)).collect();
        Ok(())
    }

    fn new_id(&mut self, key: &ServiceKey) -> Result<u32, DataplaneError> {
        let id = self.pool.add_service().ok_or(Full { map: NAMES, limit: SERVICE_IDS })?;
        // Counts of an earlier service of this id that a late program may have left.
        let _ = self.counters.remove(&id);
        if let Err(error) = names::write(&mut self.names, id, key) {
            self.pool.remove_service(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Puts to rest what no frontend of a service refers to, and says of the other backends which
    /// frontends may use them.
    pub(super) fn tidy(
        &mut self,
        key: &ServiceKey,
        report: &mut SyncReport,
    ) -> Result<(), DataplaneError> {
        let Some(installed) = self.installed.get_mut(key) else { return Ok(()) };
        let entries = self.frontends.entries();
        let mut sets_of_extents: HashMap<u32, u8> = HashMap::new();
        for key in &installed.keys {
            if let Some(entry) = entries.get(key)
                && entry.service == installed.id
                && entry.slot_count > 0
            {
                *sets_of_extents.entry(entry.slot_start).or_default() |= entry.set;
            }
        }
        let longest = installed.extents.iter().map(|extent| extent.members.len()).max();
        let mut sets: foldhash::HashMap<Endpoint, u8> = foldhash::HashMap::with_capacity_and_hasher(
            longest.unwrap_or(0),
            RandomState::default(),
        );
        let pool = &mut self.pool;
        installed.extents.retain(|extent| {
            let Some(&set) = sets_of_extents.get(&extent.start) else {
                pool.remove_slots(extent.start, u32::try_from(extent.members.len()).unwrap_or(0));
                return false;
            };
            for backend in extent.members.iter() {
                *sets.entry((backend.address, backend.port)).or_default() |= set;
            }
            true
        });
        let mut first_error = Ok(());
        installed.backends.retain(|endpoint, known| {
            let result = match sets.get(endpoint) {
                None => {
                    report.backends_removed += 1;
                    pool.remove_backend(known.id)
                }
                Some(&wanted) if wanted != known.sets => {
                    known.sets = wanted;
                    pool.change_backend(known.id, wanted, known.weight)
                }
                Some(_) => Ok(()),
            };
            if first_error.is_ok() {
                first_error = result;
            }
            sets.contains_key(endpoint)
        });
        first_error
    }
}

/// Adds the backends that are new, and gives known ones the additional sets they will need.
fn add_backends(
    pool: &mut Pool,
    installed: &mut Installed,
    group: &Group<'_>,
) -> Result<(), DataplaneError> {
    let lists = desired::lists(group);
    let all =
        lists.iter().flat_map(|(list, sets)| list.iter().map(move |backend| (backend, *sets)));
    for (&plan::Backend { address, port, weight }, sets) in all {
        match installed.backends.get_mut(&(address, port)) {
            Some(known) => {
                if known.sets | sets != known.sets || known.weight != weight {
                    known.sets |= sets;
                    known.weight = weight;
                    pool.change_backend(known.id, known.sets, weight)?;
                }
            }
            None => {
                let id = pool.add_backend(Backend {
                    address: address.into(),
                    service: installed.id,
                    port: port.to_be(),
                    weight,
                    sets,
                    ..Backend::default()
                })?;
                installed.backends.insert((address, port), Known { id, sets, weight });
            }
        }
    }
    Ok(())
}

/// Slots for a list of backends: those it has already, or a fresh extent.
fn extent(
    pool: &mut Pool,
    installed: &mut Installed,
    backends: &Arc<[plan::Backend]>,
) -> Result<(u32, u32), DataplaneError> {
    let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Ok((0, 0));
    }
    if let Some(extent) = installed.extents.iter_mut().find(|extent| extent.members == *backends) {
        // Not to keep a second list that says the same.
        extent.members = Arc::clone(backends);
        return Ok((extent.start, count));
    }
    let fresh = Extent { start: 0, members: Arc::clone(backends) };
    let start = pool.add_slots(&alias::table(&members(installed, &fresh)))?;
    installed.extents.push(Extent { start, ..fresh });
    Ok((start, count))
}

/// Ids and weights of an extent's backends.
pub(super) fn members(installed: &Installed, extent: &Extent) -> Vec<(u32, u16)> {
    extent
        .members
        .iter()
        .filter_map(|backend| {
            let known = installed.backends.get(&(backend.address, backend.port))?;
            Some((known.id, backend.weight))
        })
        .collect()
}
