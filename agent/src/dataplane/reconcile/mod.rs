//! The agent's picture of what is in the kernel, and the steps that bring it from one plan to the
//! next.
//!
//! A service port's update is copy-on-write: new backends and slots are written first, to places
//! that no program looks at; then each frontend is replaced in one atomic step; then what nothing
//! refers to any more is put to rest. Room for all of it is taken before the first frontend is
//! touched: a service port of which something does not fit keeps what it had, in full.

mod apply;
pub mod drift;
pub mod encode;
mod node_ports;
pub mod probe_service;
pub mod repair;
mod restore;
mod retained;
pub mod service_port;
pub mod standalone;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
    time::Instant,
};

use aya::maps::{MapData, PerCpuHashMap};
use sockline_ebpf::{
    address::Address,
    backend::Backend,
    counters::ServiceCounters,
    frontend::{self, FrontendKey},
    socket::AFFINITY_ENTRIES,
};

use self::{encode::Group, node_ports::AtNode, retained::Retained};
use crate::{
    bpf::{
        kinds::{growable_hash::Fill, segmented_array::Reader},
        rcu::RunningPrograms,
    },
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            allocator::{
                Patience, Pool, PoolUsage,
                removed_backend_counts::{Moving, Retired},
            },
            frontends::Frontends,
            service_names::{self, Names, ServiceKey},
        },
        pinning::layout::Pins,
    },
    model::{
        object::{ObjectName, Protocol},
        plan::{self, ServicePlan},
        test_service,
    },
};

/// How much the maps may grow to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frontends: u32,
    pub slots: u32,
    pub backends: u32,
    /// Clients × services whose affinity is kept; that many there is memory for.
    pub affinity: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends: 1 << 20,
            slots: 1 << 24,
            // One id, 0, is none.
            backends: (1 << 22) - 1,
            affinity: AFFINITY_ENTRIES,
        }
    }
}

/// Frontends that services do not want any more, with the services' ids.
type Leftovers = Vec<(FrontendKey, u32)>;

/// What an endpoint of a service port is known by.
type Endpoint = (IpAddr, u16);

pub struct Mirror {
    frontends: Frontends,
    pool: Pool,
    names: Names,
    counters: PerCpuHashMap<MapData, u32, ServiceCounters>,
    installed: BTreeMap<ServiceKey, Installed>,
    at_node: AtNode,
    /// See [`Mirror::hold_back`].
    hold_back: bool,
    retained: Retained,
    /// See [`Mirror::release_unconfirmed`].
    release_unconfirmed: bool,
    /// What was released. It is bypassed until a plan has endpoints for it, or is known to lack nothing.
    released: BTreeSet<ServiceKey>,
    /// A frontend was taken away since [`Mirror::take_freed`].
    frontends_freed: bool,
}

/// A service port in the kernel.
#[derive(Debug, Default)]
struct Installed {
    id: u32,
    backends: foldhash::HashMap<Endpoint, Known>,
    extents: Vec<Extent>,
    /// Slots of adopted frontends some of which lead nowhere. Those that do not are served until the
    /// first sync replaces all of them.
    damaged: Vec<Range<u32>>,
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
    /// The plan's own list, most of the time.
    members: Arc<[plan::Backend]>,
}

/// Something that a sync could not do.
#[derive(Debug)]
pub struct Failure {
    /// A service port, `ns/name:port/TCP`.
    pub object: String,
    /// Its service; `None` if that is not known.
    pub service: Option<ObjectName>,
    pub error: DataplaneError,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct SyncReport {
    pub services_changed: usize,
    pub services_removed: usize,
    /// Services that stay as an earlier agent left them, see [`super::Dataplane::hold_back`].
    pub services_held_back: usize,
    /// Services that were taken away because they are too old to stay so, see
    /// [`super::Dataplane::release_unconfirmed`].
    pub services_released: usize,
    /// Services that did not fit or could not be written; they keep what they had.
    pub failures: Vec<Failure>,
    /// Endpoints that left a service port.
    pub backends_removed: usize,
    /// Service ports that are gone, and the addresses that they had.
    pub removed: Vec<(ServiceKey, BTreeSet<FrontendKey>)>,
}

impl SyncReport {
    /// Adds what another sync did.
    pub fn merge(&mut self, other: Self) {
        self.services_changed += other.services_changed;
        self.services_removed += other.services_removed;
        self.services_held_back += other.services_held_back;
        self.services_released += other.services_released;
        self.failures.extend(other.failures);
        self.backends_removed += other.backends_removed;
        self.removed.extend(other.removed);
    }

    fn failed(&mut self, key: &ServiceKey, error: DataplaneError) {
        let service = Some(key.service.clone());
        self.failures.push(Failure { object: key.to_string(), service, error });
    }
}

impl Mirror {
    /// Opens the pinned maps and reads back what an earlier agent left in them.
    pub fn open(pins: &Pins, limits: Limits) -> Result<Self, DataplaneError> {
        let (mut mirror, adopted) = Self::read(pins, limits)?;
        mirror.pool.sweep(|id| adopted.contains(&id))?;
        Ok(mirror)
    }

    /// As [`Self::open`] if all that is in the maps is sound; else `None`, and nothing was changed
    /// that matters: what cannot be taken over stays as it is only until somebody needs its place.
    pub fn open_if_sound(pins: &Pins, limits: Limits) -> Result<Option<Self>, DataplaneError> {
        let (mut mirror, adopted) = Self::read(pins, limits)?;
        if !mirror.is_sound() {
            return Ok(None);
        }
        mirror.pool.sweep(|id| adopted.contains(&id))?;
        Ok(Some(mirror))
    }

    fn read(pins: &Pins, limits: Limits) -> Result<(Self, HashSet<u32>), DataplaneError> {
        let pool = Pool::new(
            maps::open_slots(pins, limits.slots, true)?,
            // One more, because id 0 is none.
            maps::open_backends(pins, limits.backends.saturating_add(1), true)?,
            Retired::open(pins, limits.frontends)?,
            RunningPrograms::new()?,
        );
        let mut mirror = Self {
            frontends: Frontends::open(pins, limits.frontends)?,
            pool,
            names: service_names::open(pins, limits.frontends)?,
            counters: maps::open_services(pins)?,
            installed: BTreeMap::new(),
            at_node: AtNode::default(),
            hold_back: false,
            retained: Retained::default(),
            release_unconfirmed: false,
            released: BTreeSet::new(),
            frontends_freed: false,
        };
        let adopted = mirror.adopt()?;
        Ok((mirror, adopted))
    }

    /// Whether there is anything that connects could be served from.
    pub fn is_empty(&self) -> bool {
        self.frontends.entries().is_empty()
    }

    /// Without those of test services, as in all that is counted for people and metrics.
    pub fn frontends(&self) -> usize {
        let of_tests: usize = self.tests().map(|installed| installed.keys.len()).sum();
        self.frontends.entries().len().saturating_sub(of_tests + self.at_node.marks.len())
    }

    pub const fn frontends_capacity(&self) -> u32 {
        self.frontends.capacity()
    }

    pub const fn frontends_limit(&self) -> u32 {
        self.frontends.limit()
    }

    /// See [`Pool::backends`].
    pub fn backends(&self) -> Reader<Backend> {
        self.pool.backends()
    }

    pub fn moving(&self) -> Moving {
        self.pool.moving()
    }

    /// Service ports in the kernel; one that did not fit at all is not.
    pub fn services(&self) -> usize {
        self.installed
            .iter()
            .filter(|(key, installed)| {
                !installed.keys.is_empty() && !test_service::is_test(&key.service)
            })
            .count()
    }

    pub fn pool_usage(&self) -> PoolUsage {
        let mut usage = self.pool.usage();
        for test in self.tests() {
            let slots: usize = test.extents.iter().map(|extent| extent.members.len()).sum();
            usage.backends = less(usage.backends, test.backends.len());
            usage.slots = less(usage.slots, slots);
        }
        usage
    }

    /// Pins maps again that are its own and have lost their pins; returns how many had.
    pub fn keep_pins(&self) -> Result<usize, DataplaneError> {
        Ok(usize::from(self.names.keep_pin()?) + usize::from(self.pool.keep_pin_of_retired()?))
    }

    pub fn names_fill(&self) -> Fill {
        self.names.fill()
    }

    pub fn retired_fill(&self) -> Fill {
        self.pool.retired_fill()
    }

    pub const fn frontend_entries(&self) -> &HashMap<FrontendKey, frontend::Frontend> {
        self.frontends.entries()
    }

    /// The names of service ports that can make counters, and whose ids are not among these.
    pub fn uncounted(&self, counted: &HashSet<u32>) -> Vec<String> {
        let without: HashSet<u32> = self
            .frontends
            .entries()
            .values()
            .filter(|entry| entry.action != frontend::FORWARD && !counted.contains(&entry.service))
            .map(|entry| entry.service)
            .collect();
        let installed = self.installed.iter();
        installed
            .filter(|(key, known)| {
                without.contains(&known.id) && !test_service::is_test(&key.service)
            })
            .map(|(key, _)| key.to_string())
            .collect()
    }

    /// The service ports of `sockline check`.
    fn tests(&self) -> impl Iterator<Item = &Installed> {
        self.installed
            .iter()
            .filter(|(key, _)| test_service::is_test(&key.service))
            .map(|(_, installed)| installed)
    }

    /// Whether an address and port is a frontend's, of any protocol.
    pub fn is_taken(&self, address: IpAddr, port: u16) -> bool {
        let address = Address::from(address);
        [frontend::TCP, frontend::UDP, frontend::SCTP].into_iter().any(|protocol| {
            let key = FrontendKey { address, port: port.to_be(), protocol, padding: 0 };
            self.frontends.entries().contains_key(&key)
        })
    }

    pub(super) fn backend(&self, id: u32) -> Option<Backend> {
        self.pool.backend(id)
    }

    /// The service ports, by their ids.
    pub(super) fn keys_by_id(&self) -> HashMap<u32, &ServiceKey> {
        self.installed.iter().map(|(key, installed)| (installed.id, key)).collect()
    }

    /// The id of the service port that has an address.
    pub(super) fn owner_of(&self, key: &FrontendKey) -> Option<u32> {
        self.frontends.entries().get(key).map(|frontend| frontend.service)
    }

    /// How many service ports are not as a plan has them, or are not in it.
    pub fn pending(&self, plan: &plan::Plan) -> usize {
        let groups = encode::groups(&plan.frontends);
        let wanted: HashSet<&ServiceKey> = groups.iter().map(|group| &group.key).collect();
        let gone = self
            .installed
            .keys()
            .filter(|key| !wanted.contains(key) && !self.is_retained(key))
            .count();
        let is_to_change = |group: &&Group<'_>| {
            !self.is_current(group) && !self.is_retained(&group.key) && !self.is_released(group)
        };
        groups.iter().filter(is_to_change).count() + gone
    }

    /// The test services that are in the maps, from whomever.
    pub fn test_services(&self) -> BTreeSet<ObjectName> {
        self.installed
            .keys()
            .filter(|key| test_service::is_test(&key.service))
            .map(|key| key.service.clone())
            .collect()
    }

    /// As long as it is set, what was adopted and was in no plan yet is not taken away.
    pub const fn hold_back(&mut self, hold_back: bool) {
        self.hold_back = hold_back;
    }

    /// As long as it is set, what would stay as an earlier agent left it is taken away instead, and is
    /// bypassed: that agent has been gone for so long that kube-proxy knows better.
    pub const fn release_unconfirmed(&mut self, release: bool) {
        self.release_unconfirmed = release;
    }

    /// Whether a service port is to be taken away in place of staying as it is.
    fn is_to_be_released(&self, key: &ServiceKey) -> bool {
        self.release_unconfirmed && self.installed.get(key).is_some_and(|known| !known.confirmed)
    }

    /// Whether a service port was released, and would now be refused for want of endpoints that may
    /// exist.
    fn is_released(&self, group: &Group<'_>) -> bool {
        self.released.contains(&group.key)
            && (self.hold_back || self.retained.contains(&group.key.service))
            && group.frontends.iter().any(|frontend| frontend.action == plan::Action::Refuse)
    }

    /// Service ports that were released, see [`Self::release_unconfirmed`].
    pub fn released(&self) -> usize {
        self.released.len()
    }

    /// Brings the kernel to a plan, and removes what is not in it. Always goes through the whole
    /// plan: a service that fails costs only itself.
    pub fn sync(&mut self, plan: &plan::Plan, node_addresses: &[IpAddr]) -> SyncReport {
        self.set_node(plan, node_addresses);
        self.retained.ended = false;
        let groups = encode::groups(&plan.frontends);
        let wanted: HashSet<&ServiceKey> = groups.iter().map(|group| &group.key).collect();
        let gone = self.installed.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        let report = self.bring_to(&groups, gone, Patience::Wait);
        // Of these, the plan is all there is now.
        let retained = &self.retained;
        self.released.retain(|key| self.hold_back || retained.contains(&key.service));
        report
    }

    /// Brings some services to their part of a plan; the others stay as they are.
    pub fn sync_services(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, Patience::Wait)
    }

    /// As [`Self::sync_services`], for what did not fit before: what rests meanwhile is not waited
    /// for, see [`Self::take_freed`].
    pub fn retry(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, Patience::Never)
    }

    /// Whether there is more room for something than at the last call.
    pub const fn take_freed(&mut self) -> bool {
        let frontends = self.frontends_freed;
        self.frontends_freed = false;
        self.pool.take_freed() || frontends
    }

    fn sync_some(&mut self, changes: &[ServicePlan], patience: Patience) -> SyncReport {
        self.change_at_node(changes);
        let mut groups = Vec::new();
        let mut gone = Vec::new();
        for change in changes {
            let wanted = encode::groups(&change.frontends);
            gone.extend(
                self.ports_of(&change.service)
                    .filter(|key| wanted.iter().all(|group| group.key != **key))
                    .cloned(),
            );
            groups.extend(wanted);
        }
        self.bring_to(&groups, gone, patience)
    }

    fn ports_of(&self, service: &ObjectName) -> impl Iterator<Item = &ServiceKey> {
        let first =
            ServiceKey { service: service.clone(), port_name: "".into(), protocol: Protocol::Tcp };
        self.installed
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.service == *service)
    }

    fn bring_to(
        &mut self,
        groups: &[Group<'_>],
        gone: Vec<ServiceKey>,
        patience: Patience,
    ) -> SyncReport {
        self.look_at_retained();
        let mut report = SyncReport::default();
        let mut changed: Vec<&ServiceKey> = Vec::new();
        let mut leftovers = Leftovers::new();
        let mut full: Vec<&Group<'_>> = Vec::new();
        if let Err(error) = self.reserve(groups) {
            // Each service that needs room asks for it again, and says so if there is none.
            tracing::debug!("cannot make room in one go: {error}");
        }
        let mut released = Vec::new();
        for group in groups {
            if self.is_current(group) || self.is_released(group) {
                continue;
            }
            let is_retained = self.is_retained(&group.key);
            if is_retained || (self.hold_back && self.would_cut_off(group)) {
                if self.is_to_be_released(&group.key) {
                    released.push(group.key.clone());
                } else if !is_retained {
                    report.services_held_back += 1;
                }
                continue;
            }
            changed.push(&group.key);
            match self.install(group, &mut leftovers, Patience::Never) {
                Ok(()) => report.services_changed += 1,
                Err(error) if error.is_for_want_of_room() => full.push(group),
                Err(error) => report.failed(&group.key, error),
            }
        }
        let (stay, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|key| {
            self.is_retained(key)
                || (self.hold_back
                    && !test_service::is_test(&key.service)
                    && self.installed.get(key).is_some_and(|known| !known.confirmed))
        });
        for key in stay {
            if self.is_to_be_released(&key) {
                released.push(key);
            } else if !self.is_retained(&key) {
                report.services_held_back += 1;
            }
        }
        for key in &gone {
            let keys = self.take_keys(key, &mut leftovers);
            report.removed.push((key.clone(), keys));
        }
        for key in &released {
            // Not in the report: nobody knows whether it is gone.
            self.take_keys(key, &mut leftovers);
        }
        self.remove_leftovers(leftovers, &mut report);
        for key in changed.iter().copied().chain(&gone).chain(&released) {
            if let Err(error) = self.tidy(key, &mut report) {
                report.failed(key, error);
            }
        }
        for key in changed {
            self.drop_if_unseen(key);
        }
        // What was removed meanwhile may have made room. It could not be removed first: a service
        // that takes over another's address must find it in place.
        for group in full {
            let mut leftovers = Leftovers::new();
            match self.install(group, &mut leftovers, patience) {
                Ok(()) => report.services_changed += 1,
                Err(error) => report.failed(&group.key, error),
            }
            self.remove_leftovers(leftovers, &mut report);
            if let Err(error) = self.tidy(&group.key, &mut report) {
                report.failed(&group.key, error);
            }
            self.drop_if_unseen(&group.key);
        }
        for key in gone {
            if self.installed.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_removed += 1;
            }
        }
        for key in released {
            if self.installed.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_released += 1;
                self.released.insert(key);
            }
        }
        report
    }

    /// Takes all addresses from a service port.
    fn take_keys(&mut self, key: &ServiceKey, leftovers: &mut Leftovers) -> BTreeSet<FrontendKey> {
        let Some(installed) = self.installed.get_mut(key) else { return BTreeSet::new() };
        leftovers.extend(installed.keys.iter().map(|key| (*key, installed.id)));
        std::mem::take(&mut installed.keys)
    }

    /// Forgets a service port whose backends and slots were put to rest.
    fn drop(&mut self, key: &ServiceKey) {
        if let Some(installed) = self.installed.remove(key) {
            service_names::remove(&mut self.names, installed.id, key);
            // Absent if the service was never used.
            let _ = self.counters.remove(&installed.id);
            self.pool.remove_service(installed.id);
        }
    }

    /// A new service port that did not fit must not use up anything else.
    fn drop_if_unseen(&mut self, key: &ServiceKey) {
        let is_unseen = |known: &Installed| known.keys.is_empty() && known.source.is_empty();
        if self.installed.get(key).is_some_and(is_unseen) {
            self.drop(key);
        }
    }

    fn remove_leftovers(&mut self, leftovers: Leftovers, report: &mut SyncReport) {
        for (key, service) in leftovers {
            // Another service may have taken the address in this very sync.
            let is_its_own =
                self.frontends.entries().get(&key).is_some_and(|entry| entry.service == service);
            if !is_its_own {
                continue;
            }
            match self.frontends.remove(&key) {
                Ok(()) => self.frontends_freed = true,
                Err(error) => self.keep_leftover(key, service, error, report),
            }
        }
    }

    /// See [`Pool::programs`].
    pub const fn programs(&self) -> &RunningPrograms {
        self.pool.programs()
    }

    /// A frontend that cannot be taken away stays its service's, with all that it leads to, and is tried
    /// again with it.
    fn keep_leftover(
        &mut self,
        key: FrontendKey,
        service: u32,
        error: DataplaneError,
        report: &mut SyncReport,
    ) {
        let Some((name, installed)) =
            self.installed.iter_mut().find(|(_, installed)| installed.id == service)
        else {
            let object = format!("service {service}");
            report.failures.push(Failure { object, service: None, error });
            return;
        };
        installed.keys.insert(key);
        installed.source.clear();
        report.failed(name, error);
    }

    /// See [`Pool::has_rested`].
    pub fn has_rested(&self) -> bool {
        self.pool.has_rested()
    }

    /// See [`Pool::settle_before`].
    pub fn settle_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.pool.settle_before(time)
    }

    /// Makes room for many services at once.
    fn reserve(&mut self, groups: &[Group<'_>]) -> Result<(), DataplaneError> {
        let (mut slots, mut backends) = (0, 0);
        for group in groups.iter().filter(|group| !self.is_current(group)) {
            // The lists of one group are mostly the same one.
            let longest = group.frontends.iter().map(|frontend| frontend.backends.len()).max();
            let (longest, known) = (longest.unwrap_or(0), self.installed.get(&group.key));
            // What was adopted is mostly what is wanted; one that is not asks for room by itself.
            let adopted = |extent: &Extent| extent.members.len() == longest;
            if !known.is_some_and(|known| !known.confirmed && known.extents.iter().any(adopted)) {
                slots += longest;
            }
            backends += longest.saturating_sub(known.map_or(0, |known| known.backends.len()));
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.pool.reserve(number(slots), number(backends))
    }
}

fn less(count: u32, tests: usize) -> u32 {
    count.saturating_sub(u32::try_from(tests).unwrap_or(u32::MAX))
}
