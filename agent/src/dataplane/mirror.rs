//! The agent's picture of what is in the kernel, and the steps that bring it from one plan to the
//! next.
//!
//! A service port's update is copy-on-write: new backends and slots are written first, to places
//! that no program looks at; then each frontend is replaced in one atomic step; then what nothing
//! refers to any more is put to rest. When something does not fit, the frontends that were not
//! reached keep what they had.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use aya::maps::{MapData, PerCpuHashMap};
use sockline_ebpf::{
    address::Address,
    backend::Backend,
    counters::ServiceCounters,
    frontend::{Frontend, FrontendKey},
};

use super::{
    alias,
    desired::{self, Group},
    error::{DataplaneError, Full},
    extents::Extents,
    frontends::Frontends,
    maps::{self, NAMES, Names},
    names::{self, ServiceKey},
    pins::Pins,
    pool::{Pool, PoolUsage},
};
use crate::model::plan::{self, Action};

/// How much the maps may grow to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frontends: u32,
    pub slots: u32,
    pub backends: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frontends: 1 << 20, slots: 1 << 24, backends: 1 << 22 }
    }
}

/// Ids of service ports, at most; far more than frontends can be.
const SERVICE_IDS: u32 = 1 << 24;

/// Frontends that services do not want any more, with the services' ids.
type Leftovers = Vec<(FrontendKey, u32)>;

/// What an endpoint of a service port is known by.
type Endpoint = (IpAddr, u16);

pub struct Mirror {
    frontends: Frontends,
    pool: Pool,
    names: Names,
    counters: PerCpuHashMap<MapData, u32, ServiceCounters>,
    ids: Extents,
    installed: HashMap<ServiceKey, Installed>,
    /// What the last sync took for the node's own addresses, and which NodePorts it left out
    /// because another service has the very address.
    node_addresses: Vec<IpAddr>,
    shadowed: HashSet<FrontendKey>,
    /// Frontends of services without a name were found when the maps were adopted.
    orphans: bool,
    /// See [`Mirror::hold_back`].
    hold_back: bool,
}

/// A service port in the kernel.
#[derive(Debug, Default)]
struct Installed {
    id: u32,
    backends: HashMap<Endpoint, Known>,
    extents: Vec<Extent>,
    keys: BTreeSet<FrontendKey>,
    /// It was in a plan of this process; else it is known from the maps alone.
    confirmed: bool,
    /// What was installed last; empty when it has to be looked at again.
    source: Vec<Arc<plan::Frontend>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    sets: u8,
    weight: u16,
}

/// Slots for one list of backends.
#[derive(Debug)]
struct Extent {
    start: u32,
    members: Vec<(Endpoint, u16)>,
}

/// Something that a sync could not do.
#[derive(Debug)]
pub struct Failure {
    /// A service port, `ns/name:port/TCP`.
    pub object: String,
    pub error: DataplaneError,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct SyncReport {
    pub services_changed: usize,
    pub services_removed: usize,
    /// Services that stay as an earlier agent left them, see [`super::Dataplane::hold_back`].
    pub services_held_back: usize,
    /// Services that did not fit or could not be written; they keep what they had.
    pub failures: Vec<Failure>,
}

impl SyncReport {
    fn failed(&mut self, key: &ServiceKey, error: DataplaneError) {
        self.failures.push(Failure { object: key.to_string(), error });
    }
}

impl Mirror {
    /// Opens the pinned maps and reads back what an earlier agent left in them.
    pub fn open(pins: &Pins, limits: Limits) -> Result<Self, DataplaneError> {
        let pool = Pool::new(
            maps::open_slots(pins, limits.slots, true)?,
            // One more, because id 0 is none.
            maps::open_backends(pins, limits.backends.saturating_add(1), true)?,
        );
        let mut mirror = Self {
            frontends: Frontends::open(pins, limits.frontends)?,
            pool,
            names: maps::open_names(pins)?,
            counters: maps::open_services(pins)?,
            ids: Extents::new(SERVICE_IDS),
            installed: HashMap::new(),
            node_addresses: Vec::new(),
            shadowed: HashSet::new(),
            orphans: false,
            hold_back: false,
        };
        mirror.ids.take_at(0, 1);
        mirror.adopt()?;
        Ok(mirror)
    }

    /// Whether there is anything that connects could be served from.
    pub fn is_empty(&self) -> bool {
        self.frontends.entries().is_empty()
    }

    pub fn frontends(&self) -> usize {
        self.frontends.entries().len()
    }

    pub const fn frontends_capacity(&self) -> u32 {
        self.frontends.capacity()
    }

    pub const fn frontends_limit(&self) -> u32 {
        self.frontends.limit()
    }

    /// Service ports in the kernel; one that did not fit at all is not.
    pub fn services(&self) -> usize {
        self.installed.values().filter(|installed| !installed.keys.is_empty()).count()
    }

    pub fn pool_usage(&self) -> PoolUsage {
        self.pool.usage()
    }

    fn adopt(&mut self) -> Result<(), DataplaneError> {
        let mut names = names::read_all(&self.names)?;
        let mut by_service: BTreeMap<u32, Vec<Frontend>> = BTreeMap::new();
        for frontend in self.frontends.entries().values() {
            by_service.entry(frontend.service).or_default().push(*frontend);
        }
        let mut adopted = HashSet::new();
        for (id, frontends) in by_service {
            let Some(key) = names.remove(&id) else {
                self.orphans = true;
                continue;
            };
            self.ids.take_at(id, 1);
            let mut installed = Installed { id, ..Installed::default() };
            for frontend in frontends {
                installed.keys.insert(frontend.key);
                self.adopt_extent(&mut installed, &frontend, &mut adopted);
            }
            self.installed.insert(key, installed);
        }
        // Names of services that have no frontend: their agent died between two steps.
        for (id, key) in names {
            names::remove(&mut self.names, id, &key);
        }
        self.pool.sweep(|id| adopted.contains(&id))
    }

    /// Takes over a frontend's slots and backends if all of them are sound; if not, the first sync
    /// writes them anew.
    fn adopt_extent(
        &mut self,
        installed: &mut Installed,
        frontend: &Frontend,
        adopted: &mut HashSet<u32>,
    ) {
        let (start, count) = (frontend.slot_start, frontend.slot_count);
        if count == 0 || installed.extents.iter().any(|extent| extent.start == start) {
            return;
        }
        let mut members = BTreeMap::new();
        for index in start..start.saturating_add(count) {
            let Some(slot) = self.pool.slot(index) else { return };
            for id in [slot.backend, slot.alias] {
                match self.pool.backend(id) {
                    Some(backend) if backend.service == installed.id => {
                        members.insert(id, backend);
                    }
                    _ => return,
                }
            }
        }
        if members.len() != count as usize || !self.pool.adopt_slots(start, count) {
            return;
        }
        let mut list = Vec::new();
        for (id, backend) in members {
            let endpoint = (backend.address.into(), u16::from_be(backend.port));
            if adopted.insert(id) {
                self.pool.adopt_backend(id);
                let known = Known { id, sets: backend.sets, weight: backend.weight };
                installed.backends.insert(endpoint, known);
            }
            list.push((endpoint, backend.weight));
        }
        list.sort_unstable();
        installed.extents.push(Extent { start, members: list });
    }

    /// As long as it is set, what was adopted and was in no plan yet is not taken away.
    pub const fn hold_back(&mut self, hold_back: bool) {
        self.hold_back = hold_back;
    }

    /// Brings the kernel to a plan. Always goes through the whole plan: a service that fails costs
    /// only itself.
    pub fn sync(&mut self, plan: &plan::Plan, node_addresses: &[IpAddr]) -> SyncReport {
        let mut report = SyncReport::default();
        let groups = desired::groups(&plan.frontends);
        self.look_at_node_again(plan, node_addresses);
        let mut changed: Vec<ServiceKey> = Vec::new();
        let mut wanted: HashSet<&ServiceKey> = HashSet::with_capacity(groups.len());
        let mut leftovers = Leftovers::new();
        let mut full: Vec<&Group<'_>> = Vec::new();
        for group in &groups {
            wanted.insert(&group.key);
            if self.is_current(group) {
                continue;
            }
            if self.hold_back && self.would_cut_off(group) {
                report.services_held_back += 1;
                continue;
            }
            changed.push(group.key.clone());
            match self.install(group, &mut leftovers) {
                Ok(()) => report.services_changed += 1,
                Err(DataplaneError::Full(_)) => full.push(group),
                Err(error) => report.failed(&group.key, error),
            }
        }
        let (held_back, gone): (Vec<_>, Vec<_>) = self
            .installed
            .iter()
            .filter(|(key, _)| !wanted.contains(key))
            .partition(|(_, installed)| self.hold_back && !installed.confirmed);
        report.services_held_back += held_back.len();
        let gone: Vec<ServiceKey> = gone.into_iter().map(|(key, _)| key.clone()).collect();
        for key in &gone {
            if let Some(installed) = self.installed.get_mut(key) {
                leftovers.extend(installed.keys.iter().map(|key| (*key, installed.id)));
                installed.keys.clear();
            }
        }
        if !self.hold_back && std::mem::take(&mut self.orphans) {
            let known: HashSet<u32> =
                self.installed.values().map(|installed| installed.id).collect();
            leftovers.extend(
                self.frontends
                    .entries()
                    .values()
                    .filter(|frontend| !known.contains(&frontend.service))
                    .map(|frontend| (frontend.key, frontend.service)),
            );
        }
        self.remove_leftovers(leftovers, &mut report);
        for key in changed.iter().chain(&gone) {
            if let Err(error) = self.tidy(key) {
                report.failed(key, error);
            }
        }
        // What was removed meanwhile may have made room. It could not be removed first: a service
        // that takes over another's address must find it in place.
        for group in full {
            let mut leftovers = Leftovers::new();
            match self.install(group, &mut leftovers) {
                Ok(()) => report.services_changed += 1,
                Err(error) => report.failed(&group.key, error),
            }
            self.remove_leftovers(leftovers, &mut report);
            if let Err(error) = self.tidy(&group.key) {
                report.failed(&group.key, error);
            }
        }
        for key in gone {
            if let Some(installed) = self.installed.remove(&key) {
                names::remove(&mut self.names, installed.id, &key);
                // Absent if the service was never used.
                let _ = self.counters.remove(&installed.id);
                self.ids.give(installed.id, 1);
                report.services_removed += 1;
            }
        }
        if let Err(error) = self.pool.settle(false) {
            tracing::warn!(%error, "cannot take back unused slots and backends yet");
        }
        report
    }

    fn remove_leftovers(&mut self, leftovers: Leftovers, report: &mut SyncReport) {
        for (key, service) in leftovers {
            // Another service may have taken the address in this very sync.
            let is_its_own =
                self.frontends.entries().get(&key).is_some_and(|entry| entry.service == service);
            if is_its_own && let Err(error) = self.frontends.remove(&key) {
                report.failures.push(Failure { object: format!("service {service}"), error });
            }
        }
    }

    /// Notes the node's addresses, and the NodePorts on them that belong to somebody else: a
    /// service that has one of the node's addresses as its own keeps it.
    fn look_at_node_again(&mut self, plan: &plan::Plan, node_addresses: &[IpAddr]) {
        let shadowed: HashSet<FrontendKey> = plan
            .frontends
            .iter()
            .filter_map(|frontend| match frontend.address {
                plan::FrontendAddress::Ip(ip) if node_addresses.contains(&ip) => {
                    Some(desired::key(frontend, ip.into()))
                }
                _ => None,
            })
            .collect();
        if self.node_addresses == node_addresses && self.shadowed == shadowed {
            return;
        }
        self.node_addresses = node_addresses.to_vec();
        self.shadowed = shadowed;
        for installed in self.installed.values_mut() {
            if installed
                .source
                .iter()
                .any(|frontend| frontend.address == plan::FrontendAddress::Node)
            {
                installed.source.clear();
            }
        }
    }

    fn is_current(&self, group: &Group<'_>) -> bool {
        self.installed.get(&group.key).is_some_and(|installed| {
            installed.source.len() == group.frontends.len()
                && installed.source.iter().zip(&group.frontends).all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }

    /// Whether a service that an earlier agent forwarded, and that no plan of this process had yet,
    /// would be refused for want of endpoints.
    fn would_cut_off(&self, group: &Group<'_>) -> bool {
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

    fn install(
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
        let id = self.ids.take(1).ok_or(Full { map: NAMES, limit: SERVICE_IDS })?;
        // Counts of an earlier service of this id that a late program may have left.
        let _ = self.counters.remove(&id);
        if let Err(error) = names::write(&mut self.names, id, key) {
            self.ids.give(id, 1);
            return Err(error);
        }
        Ok(id)
    }

    /// Puts to rest what no frontend of a service refers to, and says of the other backends which
    /// frontends may use them.
    fn tidy(&mut self, key: &ServiceKey) -> Result<(), DataplaneError> {
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
        let mut sets: HashMap<Endpoint, u8> = HashMap::new();
        let pool = &mut self.pool;
        installed.extents.retain(|extent| {
            let Some(&set) = sets_of_extents.get(&extent.start) else {
                pool.remove_slots(extent.start, u32::try_from(extent.members.len()).unwrap_or(0));
                return false;
            };
            for &(endpoint, _) in &extent.members {
                *sets.entry(endpoint).or_default() |= set;
            }
            true
        });
        let mut first_error = Ok(());
        installed.backends.retain(|endpoint, known| {
            let result = match sets.get(endpoint) {
                None => pool.remove_backend(known.id),
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

    /// Compares the maps with this picture of them, entry by entry, and mends what differs.
    /// Returns how many entries had to be mended.
    pub fn repair(&mut self) -> Result<usize, DataplaneError> {
        let mut repaired = self.frontends.repair()?;
        for (key, installed) in &self.installed {
            for (&(address, port), known) in &installed.backends {
                let found = self.pool.backend(known.id);
                let sound = found.is_some_and(|backend| {
                    backend.address == Address::from(address)
                        && backend.port == port.to_be()
                        && backend.service == installed.id
                        && backend.sets == known.sets
                });
                if !sound {
                    tracing::warn!(service = %key, backend = known.id, "backend entry repaired");
                    self.pool.rewrite_backend(
                        known.id,
                        Backend {
                            address: address.into(),
                            service: installed.id,
                            port: port.to_be(),
                            weight: known.weight,
                            sets: known.sets,
                            ..Backend::default()
                        },
                    )?;
                    repaired += 1;
                }
            }
            for extent in &installed.extents {
                let table = alias::table(&members(installed, extent));
                for (slot, index) in table.iter().zip(extent.start..) {
                    if self.pool.slot(index) != Some(*slot) {
                        tracing::warn!(service = %key, slot = index, "slot repaired");
                        self.pool.rewrite_slot(index, *slot)?;
                        repaired += 1;
                    }
                }
            }
        }
        Ok(repaired)
    }
}

/// Adds the backends that are new, and gives known ones the additional sets they will need.
fn add_backends(
    pool: &mut Pool,
    installed: &mut Installed,
    group: &Group<'_>,
) -> Result<(), DataplaneError> {
    for ((address, port), (weight, sets)) in desired::backends(group) {
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
    backends: &[plan::Backend],
) -> Result<(u32, u32), DataplaneError> {
    let mut wanted: Vec<(Endpoint, u16)> =
        backends.iter().map(|backend| ((backend.address, backend.port), backend.weight)).collect();
    wanted.sort_unstable();
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Ok((0, 0));
    }
    if let Some(extent) = installed.extents.iter().find(|extent| extent.members == wanted) {
        return Ok((extent.start, count));
    }
    let fresh = Extent { start: 0, members: wanted };
    let start = pool.add_slots(&alias::table(&members(installed, &fresh)))?;
    installed.extents.push(Extent { start, ..fresh });
    Ok((start, count))
}

/// Ids and weights of an extent's backends.
fn members(installed: &Installed, extent: &Extent) -> Vec<(u32, u16)> {
    extent
        .members
        .iter()
        .filter_map(|(endpoint, weight)| Some((installed.backends.get(endpoint)?.id, *weight)))
        .collect()
}
