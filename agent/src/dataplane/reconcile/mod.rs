//! Brings the maps from what they hold to what a plan says.
//!
//! Called by [`super::Dataplane`]; calls `maps`. `encode` turns a plan into service ports, [`Reconciler`] knows
//! what is in the maps, `apply` changes one service port, `restore` reads back what an earlier agent left,
//! `repair` finds and repairs drift, `retained` keeps services whose objects cannot be used, `node_ports` decides
//! between NodePorts and services at the node's addresses, `probe_service` and `standalone` serve
//! `sockline check`.
//!
//! Invariants: an update of a service port is copy-on-write. New backends and slots are written first, where no
//! program reads; then each frontend is replaced in one atomic step; then what nothing refers to is freed. Room
//! for all of it is taken before the first frontend changes: a service port that does not fit keeps all that it
//! had.

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
    id::{BackendId, ServiceId, SlotIndex},
    socket::AFFINITY_ENTRIES,
};

use self::{encode::DesiredServicePort, node_ports::AtNode, retained::Retained};
use crate::{
    bpf::{
        kinds::{growable_hash::MapUsage, segmented_array::Reader},
        rcu::RunningPrograms,
    },
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            allocator::{
                Allocator, AllocatorUsage, WaitPolicy,
                removed_backend_counts::{RemovedBackendCounts, TransferLock},
            },
            frontends::Frontends,
            service_names::{self, Names, ServiceKey},
        },
        pinning::layout::Pins,
    },
    model::{
        object::{ObjectName, Protocol},
        plan::{self, ServicePlan},
        probe_service::is_probe,
    },
};

/// Limits of the maps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frontends: u32,
    pub slots: u32,
    pub backends: u32,
    /// Clients × services with affinity. Memory for all of them is allocated at the start.
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

/// Frontends that services no longer have, with the services' ids.
type ObsoleteFrontends = Vec<(FrontendKey, ServiceId)>;

/// Identifies an endpoint of a service port.
type Endpoint = (IpAddr, u16);

pub struct Reconciler {
    frontends: Frontends,
    allocator: Allocator,
    names: Names,
    counters: PerCpuHashMap<MapData, ServiceId, ServiceCounters>,
    installed: BTreeMap<ServiceKey, ServicePortState>,
    at_node: AtNode,
    /// See [`Reconciler::retain_unconfirmed`].
    retain_unconfirmed: bool,
    retained: Retained,
    /// See [`Reconciler::release_unconfirmed`].
    release_unconfirmed: bool,
    /// Service ports that were released: bypassed until a plan has endpoints for them, or is
    /// complete. With the addresses that they had.
    released: BTreeMap<ServiceKey, BTreeSet<FrontendKey>>,
    /// A frontend was removed since the last [`Reconciler::take_freed`].
    frontends_freed: bool,
}

/// A service port in the kernel.
#[derive(Debug, Default)]
struct ServicePortState {
    id: ServiceId,
    backends: foldhash::HashMap<Endpoint, InstalledBackend>,
    slot_ranges: Vec<SlotRange>,
    /// Slots of restored frontends of which some are damaged. The others serve until the first sync
    /// replaces all.
    damaged: Vec<Range<SlotIndex>>,
    keys: BTreeSet<FrontendKey>,
    /// It was in a plan of this process; otherwise only the maps have it.
    confirmed: bool,
    /// Its service was deleted, see [`Reconciler::mark_deleted`].
    is_deleted: bool,
    /// The frontends that were applied last; empty if it has to be applied again.
    source: Vec<Arc<plan::Frontend>>,
}

#[derive(Debug, Clone, Copy)]
struct InstalledBackend {
    id: BackendId,
    scopes: u8,
    weight: u16,
}

/// Slots for one list of backends.
#[derive(Debug)]
struct SlotRange {
    start: SlotIndex,
    /// Usually the plan's own list.
    members: Arc<[plan::Backend]>,
}

/// Something that a sync could not do.
#[derive(Debug)]
pub struct SyncError {
    /// A service port, `ns/name:port/TCP`.
    pub object: String,
    /// `None` if it is not known which one it was.
    pub port: Option<ServiceKey>,
    pub error: DataplaneError,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct SyncReport {
    pub services_changed: usize,
    pub services_removed: usize,
    /// Services that stay as an earlier agent left them: [`super::Dataplane::retain_unconfirmed`].
    pub services_unconfirmed: usize,
    /// Services that were removed because what an earlier agent left is too old:
    /// [`super::Dataplane::release_unconfirmed`].
    pub services_released: usize,
    /// Services that did not fit or could not be written; they keep what they had.
    pub errors: Vec<SyncError>,
    /// Endpoints that left a service port.
    pub backends_removed: usize,
    pub removed: Vec<Removed>,
}

/// A service port that is gone.
#[derive(Debug)]
pub struct Removed {
    pub port: ServiceKey,
    /// The id that records of its sockets have.
    pub id: ServiceId,
    /// The addresses that it had.
    pub keys: BTreeSet<FrontendKey>,
}

impl SyncReport {
    /// Adds the report of another sync.
    pub fn merge(&mut self, other: Self) {
        self.services_changed += other.services_changed;
        self.services_removed += other.services_removed;
        self.services_unconfirmed += other.services_unconfirmed;
        self.services_released += other.services_released;
        self.errors.extend(other.errors);
        self.backends_removed += other.backends_removed;
        self.removed.extend(other.removed);
    }

    fn failed(&mut self, key: &ServiceKey, error: DataplaneError) {
        self.errors.push(SyncError { object: key.to_string(), port: Some(key.clone()), error });
    }
}

impl Reconciler {
    /// Opens the pinned maps and reads back what an earlier agent left in them.
    pub fn open(pins: &Pins, limits: Limits) -> Result<Self, DataplaneError> {
        let (mut reconciler, restored) = Self::read(pins, limits)?;
        reconciler.allocator.sweep(|id| restored.contains(&id))?;
        Ok(reconciler)
    }

    /// As [`Self::open`] if everything in the maps is consistent. Otherwise `None`: what could not
    /// be restored may be in use, and writing here could overwrite it.
    pub fn open_if_sound(pins: &Pins, limits: Limits) -> Result<Option<Self>, DataplaneError> {
        let (mut reconciler, restored) = Self::read(pins, limits)?;
        if !reconciler.is_sound() {
            return Ok(None);
        }
        reconciler.allocator.sweep(|id| restored.contains(&id))?;
        Ok(Some(reconciler))
    }

    fn read(pins: &Pins, limits: Limits) -> Result<(Self, HashSet<BackendId>), DataplaneError> {
        let allocator = Allocator::new(
            maps::open_slots(pins, limits.slots, true)?,
            // One more, because id 0 is none.
            maps::open_backends(pins, limits.backends.saturating_add(1), true)?,
            RemovedBackendCounts::open(pins, limits.frontends)?,
            RunningPrograms::new()?,
        );
        let mut reconciler = Self {
            frontends: Frontends::open(pins, limits.frontends)?,
            allocator,
            names: service_names::open(pins, limits.frontends)?,
            counters: maps::open_service_counters(pins)?,
            installed: BTreeMap::new(),
            at_node: AtNode::default(),
            retain_unconfirmed: false,
            retained: Retained::default(),
            release_unconfirmed: false,
            released: BTreeMap::new(),
            frontends_freed: false,
        };
        let restored = reconciler.restore()?;
        Ok((reconciler, restored))
    }

    /// Whether the maps have no frontends.
    pub fn is_empty(&self) -> bool {
        self.frontends.entries().is_empty()
    }

    /// Without those of probe services, as in everything that is counted.
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

    /// See [`Allocator::backends`].
    pub fn backends(&self) -> Reader<Backend> {
        self.allocator.backends()
    }

    pub fn transfer_lock(&self) -> TransferLock {
        self.allocator.transfer_lock()
    }

    /// Service ports in the maps.
    pub fn services(&self) -> usize {
        self.installed
            .iter()
            .filter(|(key, installed)| !installed.keys.is_empty() && !is_probe(&key.service))
            .count()
    }

    pub fn allocator_usage(&self) -> AllocatorUsage {
        let mut usage = self.allocator.usage();
        for test in self.tests() {
            let slots: usize =
                test.slot_ranges.iter().map(|slot_range| slot_range.members.len()).sum();
            usage.backends = less(usage.backends, test.backends.len());
            usage.slots = less(usage.slots, slots);
        }
        usage
    }

    /// Pins its own maps again if they lost their pins; returns how many had.
    pub fn repair_pins(&self) -> Result<usize, DataplaneError> {
        Ok(usize::from(self.names.repair_pin()?)
            + usize::from(self.allocator.repair_pin_of_removed_counts()?))
    }

    pub fn names_usage(&self) -> MapUsage {
        self.names.usage()
    }

    pub fn removed_counts_usage(&self) -> MapUsage {
        self.allocator.removed_counts_usage()
    }

    pub const fn frontend_entries(&self) -> &HashMap<FrontendKey, frontend::Frontend> {
        self.frontends.entries()
    }

    /// The names of service ports that have counters, and whose ids are not among these.
    pub fn without_counters(&self, counted: &HashSet<ServiceId>) -> Vec<String> {
        let without: HashSet<ServiceId> = self
            .frontends
            .entries()
            .values()
            .filter(|entry| entry.action != frontend::FORWARD && !counted.contains(&entry.service))
            .map(|entry| entry.service)
            .collect();
        let installed = self.installed.iter();
        installed
            .filter(|(key, known)| without.contains(&known.id) && !is_probe(&key.service))
            .map(|(key, _)| key.to_string())
            .collect()
    }

    /// The service ports of `sockline check`.
    fn tests(&self) -> impl Iterator<Item = &ServicePortState> {
        self.installed
            .iter()
            .filter(|(key, _)| is_probe(&key.service))
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

    pub(super) fn backend(&self, id: BackendId) -> Option<Backend> {
        self.allocator.backend(id)
    }

    /// The service ports, by their ids.
    pub(super) fn keys_by_id(&self) -> HashMap<ServiceId, &ServiceKey> {
        self.installed.iter().map(|(key, installed)| (installed.id, key)).collect()
    }

    /// The released service port that had an address.
    pub(super) fn released_from(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.released.iter().find(|(_, keys)| keys.contains(key)).map(|(port, _)| port)
    }

    /// The id of the service port that has an address.
    pub(super) fn owner_of(&self, key: &FrontendKey) -> Option<ServiceId> {
        self.frontends.entries().get(key).map(|frontend| frontend.service)
    }

    /// How many service ports differ from a plan, or are not in it.
    pub fn pending(&self, plan: &plan::Plan) -> usize {
        let service_ports = encode::service_ports(&plan.frontends);
        let wanted: HashSet<&ServiceKey> =
            service_ports.iter().map(|service_port| &service_port.key).collect();
        let gone = self
            .installed
            .keys()
            .filter(|key| !wanted.contains(key) && !self.is_retained(key))
            .count();
        let is_to_change = |service_port: &&DesiredServicePort<'_>| {
            !self.is_current(service_port)
                && !self.is_retained(&service_port.key)
                && !self.is_released(service_port)
        };
        service_ports.iter().filter(is_to_change).count() + gone
    }

    /// The probe services in the maps.
    pub fn probe_services(&self) -> BTreeSet<ObjectName> {
        self.installed
            .keys()
            .filter(|key| is_probe(&key.service))
            .map(|key| key.service.clone())
            .collect()
    }

    /// While set, restored service ports that were in no plan yet are not removed.
    pub const fn retain_unconfirmed(&mut self, retain_unconfirmed: bool) {
        self.retain_unconfirmed = retain_unconfirmed;
    }

    /// While set, service ports that would stay as an earlier agent left them are removed and
    /// bypassed instead: that agent was gone for so long that kube-proxy knows better.
    pub const fn release_unconfirmed(&mut self, release: bool) {
        self.release_unconfirmed = release;
    }

    /// Whether a service port is removed instead of staying unchanged.
    fn is_to_be_released(&self, key: &ServiceKey) -> bool {
        self.release_unconfirmed && self.installed.get(key).is_some_and(|known| !known.confirmed)
    }

    /// Whether a service port was released, and would now be refused although it may have
    /// endpoints.
    fn is_released(&self, service_port: &DesiredServicePort<'_>) -> bool {
        self.released.contains_key(&service_port.key)
            && (self.retain_unconfirmed || self.retained.contains(&service_port.key.service))
            && service_port.frontends.iter().any(|frontend| frontend.action == plan::Action::Refuse)
    }

    /// Service ports that were released, see [`Self::release_unconfirmed`].
    pub fn released(&self) -> usize {
        self.released.len()
    }

    /// Applies a plan and removes what is not in it. Always handles the whole plan: a service that
    /// fails affects only itself.
    pub fn sync(&mut self, plan: &plan::Plan, node_addresses: &[IpAddr]) -> SyncReport {
        self.set_node(plan, node_addresses);
        let service_ports = encode::service_ports(&plan.frontends);
        let wanted: HashSet<&ServiceKey> =
            service_ports.iter().map(|service_port| &service_port.key).collect();
        let gone = self.installed.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        let report = self.apply_all(&service_ports, gone, WaitPolicy::Wait);
        self.retained.ended = false;
        self.prune_released(&service_ports, |_| true);
        report
    }

    /// Removes released service ports from the list that no longer exist according to the plan of their
    /// service. `planned` selects the services whose plan this is.
    fn prune_released(
        &mut self,
        service_ports: &[DesiredServicePort<'_>],
        planned: impl Fn(&ObjectName) -> bool,
    ) {
        if self.released.is_empty() {
            return;
        }
        let wanted: HashSet<&ServiceKey> =
            service_ports.iter().map(|service_port| &service_port.key).collect();
        let readable: HashSet<&ObjectName> = wanted.iter().map(|key| &key.service).collect();
        let (retained, retain_unconfirmed) = (&self.retained, self.retain_unconfirmed);
        self.released.retain(|key, _| {
            let may_lack = retain_unconfirmed || retained.contains(&key.service);
            // If the Service itself can be read, its ports are known.
            let may_exist = wanted.contains(key) || !readable.contains(&key.service);
            !planned(&key.service) || (may_lack && may_exist)
        });
    }

    /// Applies the plans of some services; the others stay unchanged.
    pub fn sync_services(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, WaitPolicy::Wait)
    }

    /// As [`Self::sync_services`], for services that did not fit before. Does not wait for pending
    /// entries, see [`Self::take_freed`].
    pub fn retry(&mut self, changes: &[ServicePlan]) -> SyncReport {
        self.sync_some(changes, WaitPolicy::Never)
    }

    /// Whether a map has more room than at the last call.
    pub const fn take_freed(&mut self) -> bool {
        let frontends = self.frontends_freed;
        self.frontends_freed = false;
        self.allocator.take_freed() || frontends
    }

    fn sync_some(&mut self, changes: &[ServicePlan], wait_policy: WaitPolicy) -> SyncReport {
        self.change_at_node(changes);
        let mut service_ports = Vec::new();
        let mut gone = Vec::new();
        for change in changes {
            let wanted = encode::service_ports(&change.frontends);
            gone.extend(
                self.ports_of(&change.service)
                    .filter(|key| wanted.iter().all(|service_port| service_port.key != **key))
                    .cloned(),
            );
            service_ports.extend(wanted);
        }
        let report = self.apply_all(&service_ports, gone, wait_policy);
        self.prune_released(&service_ports, |service| {
            changes.iter().any(|change| change.service == *service)
        });
        report
    }

    fn ports_of(&self, service: &ObjectName) -> impl Iterator<Item = &ServiceKey> {
        let first =
            ServiceKey { service: service.clone(), port_name: "".into(), protocol: Protocol::Tcp };
        self.installed
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.service == *service)
    }

    fn apply_all(
        &mut self,
        service_ports: &[DesiredServicePort<'_>],
        gone: Vec<ServiceKey>,
        wait_policy: WaitPolicy,
    ) -> SyncReport {
        self.update_retained_ids();
        let mut report = SyncReport::default();
        let mut changed: Vec<&ServiceKey> = Vec::new();
        let mut obsolete = ObsoleteFrontends::new();
        let mut full: Vec<&DesiredServicePort<'_>> = Vec::new();
        if let Err(error) = self.reserve(service_ports) {
            // Each service that needs room asks for it again, and reports an error if there is
            // none.
            tracing::debug!("cannot make room in one go: {error}");
        }
        let mut released = Vec::new();
        for service_port in service_ports {
            if self.is_current(service_port) || self.is_released(service_port) {
                continue;
            }
            let is_retained = self.is_retained(&service_port.key);
            if is_retained || (self.retain_unconfirmed && self.would_cut_off(service_port)) {
                if self.is_to_be_released(&service_port.key) {
                    released.push(service_port.key.clone());
                } else if !is_retained {
                    report.services_unconfirmed += 1;
                }
                continue;
            }
            changed.push(&service_port.key);
            match self.apply(service_port, &mut obsolete, WaitPolicy::Never) {
                Ok(()) => report.services_changed += 1,
                Err(error) if error.is_for_want_of_room() => full.push(service_port),
                Err(error) => report.failed(&service_port.key, error),
            }
        }
        let (stay, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|key| {
            self.is_retained(key)
                || (self.retain_unconfirmed
                    && !is_probe(&key.service)
                    && self.installed.get(key).is_some_and(|known| !known.confirmed))
        });
        for key in stay {
            if self.is_to_be_released(&key) {
                released.push(key);
            } else if !self.is_retained(&key) {
                report.services_unconfirmed += 1;
            }
        }
        for key in &gone {
            let id = self.installed.get(key).map_or(ServiceId::NONE, |installed| installed.id);
            let keys = self.take_keys(key, &mut obsolete);
            report.removed.push(Removed { port: key.clone(), id, keys });
        }
        // Not in the report: it is not known whether the services are gone.
        let released: Vec<(ServiceKey, BTreeSet<FrontendKey>)> = released
            .into_iter()
            .map(|key| {
                let keys = self.take_keys(&key, &mut obsolete);
                (key, keys)
            })
            .collect();
        self.remove_obsolete(obsolete, &mut report);
        let released_keys = released.iter().map(|(key, _)| key);
        for key in changed.iter().copied().chain(&gone).chain(released_keys) {
            if let Err(error) = self.release_unused(key, &mut report) {
                report.failed(key, error);
            }
        }
        for key in changed {
            self.drop_if_unseen(key);
        }
        // The removals above may have made room. They could not come first: a service that takes
        // over another's address must find it in place.
        for service_port in full {
            let mut obsolete = ObsoleteFrontends::new();
            match self.apply(service_port, &mut obsolete, wait_policy) {
                Ok(()) => report.services_changed += 1,
                Err(error) => report.failed(&service_port.key, error),
            }
            self.remove_obsolete(obsolete, &mut report);
            if let Err(error) = self.release_unused(&service_port.key, &mut report) {
                report.failed(&service_port.key, error);
            }
            self.drop_if_unseen(&service_port.key);
        }
        for key in gone {
            if self.installed.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_removed += 1;
            }
        }
        for key in std::mem::take(&mut self.retained.lost) {
            if let Err(error) = self.release_unused(&key, &mut report) {
                report.failed(&key, error);
            }
        }
        for (key, keys) in released {
            if self.installed.get(&key).is_some_and(|known| known.keys.is_empty()) {
                self.drop(&key);
                report.services_released += 1;
                self.released.insert(key, keys);
            }
        }
        report
    }

    /// Removes all addresses from a service port.
    fn take_keys(
        &mut self,
        key: &ServiceKey,
        obsolete: &mut ObsoleteFrontends,
    ) -> BTreeSet<FrontendKey> {
        let Some(installed) = self.installed.get_mut(key) else { return BTreeSet::new() };
        obsolete.extend(installed.keys.iter().map(|key| (*key, installed.id)));
        std::mem::take(&mut installed.keys)
    }

    /// Removes a service port whose backends and slots were freed.
    fn drop(&mut self, key: &ServiceKey) {
        self.retained.waiting_for_address.remove(key);
        if let Some(installed) = self.installed.remove(key) {
            service_names::remove(&mut self.names, installed.id, key);
            // Absent if the service was never used.
            let _ = self.counters.remove(&installed.id);
            self.allocator.remove_service(installed.id);
        }
    }

    /// A new service port that did not fit must not keep anything.
    fn drop_if_unseen(&mut self, key: &ServiceKey) {
        let is_unseen = |known: &ServicePortState| known.keys.is_empty() && known.source.is_empty();
        if self.installed.get(key).is_some_and(is_unseen) {
            self.drop(key);
        }
    }

    fn remove_obsolete(&mut self, obsolete: ObsoleteFrontends, report: &mut SyncReport) {
        for (key, service) in obsolete {
            // Another service may have taken over the address in this sync.
            let is_its_own =
                self.frontends.entries().get(&key).is_some_and(|entry| entry.service == service);
            if !is_its_own {
                continue;
            }
            match self.frontends.remove(&key) {
                Ok(()) => self.frontends_freed = true,
                Err(error) => self.keep_obsolete(key, service, error, report),
            }
        }
    }

    /// See [`Allocator::programs`].
    pub const fn programs(&self) -> &RunningPrograms {
        self.allocator.programs()
    }

    /// A frontend that cannot be removed stays with its service, with all that it leads to, and is
    /// tried again with it.
    fn keep_obsolete(
        &mut self,
        key: FrontendKey,
        service: ServiceId,
        error: DataplaneError,
        report: &mut SyncReport,
    ) {
        let Some((name, installed)) =
            self.installed.iter_mut().find(|(_, installed)| installed.id == service)
        else {
            let object = format!("service {service}");
            report.errors.push(SyncError { object, port: None, error });
            return;
        };
        installed.keys.insert(key);
        installed.source.clear();
        report.failed(name, error);
    }

    /// See [`Allocator::has_reclaimable`].
    pub fn has_reclaimable(&self) -> bool {
        self.allocator.has_reclaimable()
    }

    /// See [`Allocator::reclaim_before`].
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.allocator.reclaim_before(time)
    }

    /// Allocates memory for many services at once.
    fn reserve(&mut self, service_ports: &[DesiredServicePort<'_>]) -> Result<(), DataplaneError> {
        let (mut slots, mut backends) = (0, 0);
        for service_port in
            service_ports.iter().filter(|service_port| !self.is_current(service_port))
        {
            // The lists of one service port are mostly the same one.
            let longest =
                service_port.frontends.iter().map(|frontend| frontend.backends.len()).max();
            let (longest, known) = (longest.unwrap_or(0), self.installed.get(&service_port.key));
            // Restored services mostly match the plan; one that does not asks for room by itself.
            let restored = |slot_range: &SlotRange| slot_range.members.len() == longest;
            if !known
                .is_some_and(|known| !known.confirmed && known.slot_ranges.iter().any(restored))
            {
                slots += longest;
            }
            backends += longest.saturating_sub(known.map_or(0, |known| known.backends.len()));
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.allocator.reserve(number(slots), number(backends))
    }
}

fn less(count: u32, tests: usize) -> u32 {
    count.saturating_sub(u32::try_from(tests).unwrap_or(u32::MAX))
}
