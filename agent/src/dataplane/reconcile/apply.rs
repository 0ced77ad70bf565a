//! Bringing one service port from what is in the kernel to what the plan says.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use sockline_ebpf::{
    backend::Backend,
    frontend::{Frontend, FrontendKey},
};

use super::{
    Endpoint, Extent, Installed, Known, Leftovers, Mirror, SyncReport,
    encode::{self, Group},
};
use crate::{
    bpf::error::Full,
    dataplane::{
        error::DataplaneError,
        maps::{
            NAMES,
            allocator::{Patience, Pool, SERVICE_IDS, alias},
            service_names::{self, ServiceKey},
        },
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
                entry.service == installed.id && encode::action_of(entry.action) == Action::Forward
            })
        };
        group.frontends.iter().filter(|frontend| frontend.action == Action::Refuse).any(
            |frontend| {
                encode::addresses(frontend, self.at_node.addresses())
                    .into_iter()
                    .any(|address| is_forwarded(encode::key(frontend, address)))
            },
        )
    }

    /// Brings a service port to what the plan says: in full, or not at all. There must be room for
    /// all of it before the first frontend is touched.
    pub(super) fn install(
        &mut self,
        group: &Group<'_>,
        leftovers: &mut Leftovers,
        patience: Patience,
    ) -> Result<(), DataplaneError> {
        if let Some(installed) = self.installed.get_mut(&group.key) {
            installed.source.clear();
            installed.confirmed = true;
        }
        self.released.remove(&group.key);
        let places = self.places(group);
        let entries = self.frontends.entries();
        let more = places.iter().filter(|(_, key)| !entries.contains_key(key)).count();
        self.frontends.reserve(more)?;
        let addition =
            Addition::take(&mut self.pool, self.installed.get(&group.key), group, patience)?;
        if !self.installed.contains_key(&group.key) {
            match self.new_id(&group.key) {
                Ok(id) => {
                    let new = Installed { id, confirmed: true, ..Installed::default() };
                    self.installed.insert(group.key.clone(), new);
                }
                Err(error) => {
                    addition.give_back(&mut self.pool);
                    return Err(error);
                }
            }
        }
        let Some(installed) = self.installed.get_mut(&group.key) else { return Ok(()) };
        let written = addition.write(&mut self.pool, installed).and_then(|()| {
            let entries = places.iter().map(|(frontend, key)| entry(installed, frontend, *key));
            self.frontends.set_all(&entries.collect::<Vec<_>>())
        });
        written?;
        change_weights(&mut self.pool, installed, group)?;
        let keys: BTreeSet<FrontendKey> = places.into_iter().map(|(_, key)| key).collect();
        leftovers.extend(installed.keys.difference(&keys).map(|key| (*key, installed.id)));
        installed.keys = keys;
        installed.source = group.frontends.iter().map(|&frontend| Arc::clone(frontend)).collect();
        Ok(())
    }

    /// The keys of a group's frontends, without addresses of the node where a NodePort is, and those that
    /// a retained service has.
    fn places<'a>(&mut self, group: &Group<'a>) -> Vec<(&'a plan::Frontend, FrontendKey)> {
        let mut places = Vec::with_capacity(group.frontends.len());
        for &frontend in &group.frontends {
            for address in encode::addresses(frontend, self.at_node.addresses()) {
                let key = encode::key(frontend, address);
                if !self.at_node.loses(frontend, key)
                    && !self.is_kept_out(&group.key, frontend, &key)
                {
                    places.push((&**frontend, key));
                }
            }
        }
        places
    }

    fn new_id(&mut self, key: &ServiceKey) -> Result<u32, DataplaneError> {
        let id = self.pool.add_service().ok_or(Full { map: NAMES, limit: SERVICE_IDS })?;
        // Counts of an earlier service of this id that a late program may have left.
        let _ = self.counters.remove(&id);
        if let Err(error) = service_names::write(&mut self.names, id, key) {
            self.pool.withdraw_service(id);
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
        installed.damaged.retain(|slots| {
            let is_used = sets_of_extents.contains_key(&slots.start);
            if !is_used {
                pool.remove_slots(slots.start, slots.end - slots.start);
            }
            is_used
        });
        // Which backends they lead to is not known.
        let keeps_all = !installed.damaged.is_empty();
        let mut first_error = Ok(());
        installed.backends.retain(|endpoint, known| {
            let result = match sets.get(endpoint) {
                None if keeps_all => Ok(()),
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
            keeps_all || sets.contains_key(endpoint)
        });
        first_error
    }
}

/// What a service port needs beside what it has: room for it is taken before any of it is written.
struct Addition<'a> {
    /// Endpoints that are new, with their weights and sets.
    backends: foldhash::HashMap<Endpoint, (u16, u8)>,
    /// Sets that known endpoints need as well.
    sets: Vec<(Endpoint, u8)>,
    /// Lists without slots, and where theirs will begin.
    extents: Vec<(u32, &'a Arc<[plan::Backend]>)>,
}

impl<'a> Addition<'a> {
    fn take(
        pool: &mut Pool,
        installed: Option<&Installed>,
        group: &Group<'a>,
        patience: Patience,
    ) -> Result<Self, DataplaneError> {
        let mut addition =
            Self { backends: foldhash::HashMap::default(), sets: Vec::new(), extents: Vec::new() };
        let lists = encode::lists(group);
        for (list, sets) in &lists {
            for &plan::Backend { address, port, weight } in list.iter() {
                let endpoint = (address, port);
                match installed.and_then(|installed| installed.backends.get(&endpoint)) {
                    Some(known) if known.sets | sets != known.sets => {
                        addition.sets.push((endpoint, *sets));
                    }
                    Some(_) => {}
                    None => addition.backends.entry(endpoint).or_insert((weight, 0)).1 |= sets,
                }
            }
        }
        pool.make_room(number(addition.backends.len()), patience)?;
        for (list, _) in lists {
            let has_slots = installed.is_some_and(|installed| {
                installed.extents.iter().any(|known| known.members == *list)
            }) || addition.extents.iter().any(|(_, taken)| *taken == list);
            if list.is_empty() || has_slots {
                continue;
            }
            match pool.take_slots(length(list), patience) {
                Ok(start) => addition.extents.push((start, list)),
                Err(error) => {
                    addition.give_back(pool);
                    return Err(error);
                }
            }
        }
        Ok(addition)
    }

    fn give_back(self, pool: &mut Pool) {
        for (start, list) in self.extents {
            pool.withdraw_slots(start, length(list));
        }
    }

    /// Writes backends and slots to places that no program looks at: all of them, or none.
    fn write(self, pool: &mut Pool, installed: &mut Installed) -> Result<(), DataplaneError> {
        let mut added = Vec::with_capacity(self.backends.len());
        let mut written = Ok(());
        for (&(address, port), &(weight, sets)) in &self.backends {
            let backend = Backend {
                address: address.into(),
                service: installed.id,
                port: port.to_be(),
                weight,
                sets,
                ..Backend::default()
            };
            match pool.add_backend(backend) {
                Ok(id) => {
                    installed.backends.insert((address, port), Known { id, sets, weight });
                    added.push((address, port));
                }
                Err(error) => {
                    written = Err(error);
                    break;
                }
            }
        }
        for (start, list) in &self.extents {
            if written.is_ok() {
                let extent = Extent { start: *start, members: Arc::clone(list) };
                let table = alias::table(&members(installed, &extent));
                written = pool.write_slots(*start, &table);
            }
        }
        if let Err(error) = written {
            for endpoint in added {
                if let Some(known) = installed.backends.remove(&endpoint) {
                    pool.withdraw_backend(known.id)?;
                }
            }
            self.give_back(pool);
            return Err(error);
        }
        for (endpoint, sets) in &self.sets {
            if let Some(known) = installed.backends.get_mut(endpoint) {
                known.sets |= sets;
                pool.change_backend(known.id, known.sets, known.weight)?;
            }
        }
        let extents = self.extents.into_iter();
        installed
            .extents
            .extend(extents.map(|(start, list)| Extent { start, members: Arc::clone(list) }));
        Ok(())
    }
}

/// The entry of a frontend whose backends and slots are written.
fn entry(installed: &mut Installed, frontend: &plan::Frontend, key: FrontendKey) -> Frontend {
    let list = &frontend.backends;
    let slot_start = match installed.extents.iter_mut().find(|extent| extent.members == *list) {
        Some(extent) if !list.is_empty() => {
            // Not to keep a second list that says the same.
            extent.members = Arc::clone(list);
            extent.start
        }
        _ => 0,
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
        set: encode::set(frontend.kind),
        padding: 0,
        node: frontend.of_node,
    }
}

/// Notes the weights that the slots were made with.
fn change_weights(
    pool: &mut Pool,
    installed: &mut Installed,
    group: &Group<'_>,
) -> Result<(), DataplaneError> {
    for (list, _) in encode::lists(group) {
        for &plan::Backend { address, port, weight } in list.iter() {
            if let Some(known) = installed.backends.get_mut(&(address, port))
                && known.weight != weight
            {
                known.weight = weight;
                pool.change_backend(known.id, known.sets, weight)?;
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
