//! Brings the maps from what they hold to what a plan says.
//!
//! Called by [`super::Dataplane`]; calls `maps`. `encode` turns a plan into service ports, [`Reconciler`] knows
//! what is in the maps, `sync` applies a plan and `apply` one service port of it, `restore` reads back what an
//! earlier agent left, `repair` finds and repairs drift, `retained` keeps services whose objects cannot be used, `node_ports` decides
//! between NodePorts and services at the node's addresses, `probe_service` and `standalone` serve
//! `sockline check`. `service_port` is what the maps have of one service port, `report` what a sync returns, `usage` how
//! full the maps are.
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
pub mod report;
mod restore;
mod retained;
pub mod service_port;
pub mod standalone;
mod sync;
mod usage;

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
    backend::{Backend, Scopes},
    carried::{CARRIED_SOURCES, CarriedCounts},
    client::CLIENT_ENTRIES,
    counters::ServiceCounters,
    frontend::{Frontend, FrontendKey, Protocol},
    id::{BackendId, ServiceId, SlotIndex},
    partly_counted::Part,
    socket::{AFFINITY_ENTRIES, About, SocketRecord},
    telemetry::ServiceStats,
};

use self::{encode::DesiredServicePort, node_ports::AtNode, retained::Retained};
use crate::{
    bpf::{kinds::segmented_array::Reader, mmap::Access, rcu::Rcu},
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            agent_state::LastService,
            allocator::{
                Allocator,
                removed_backend_counts::{RemovedBackendCounts, TransferLock},
            },
            frontends::Frontends,
            service_names::{self, Names, ServiceKey},
        },
        pinning::layout::Pins,
        retention::{RestoredState, UnconfirmedPolicy},
    },
    model::{object::ObjectName, plan, probe_service::is_probe},
};

/// Limits of the maps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frontends: u32,
    pub slots: u32,
    pub backends: u32,
    /// Clients × services with affinity. Memory for all of them is allocated at the start.
    pub affinity: u32,
    /// Clients × services that are counted; memory as for `affinity`.
    pub clients: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends: 1 << 20,
            slots: 1 << 24,
            // One id, 0, is none.
            backends: (1 << 22) - 1,
            affinity: AFFINITY_ENTRIES,
            clients: CLIENT_ENTRIES,
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
    stats: PerCpuHashMap<MapData, ServiceId, ServiceStats>,
    service_ports: BTreeMap<ServiceKey, ServicePortState>,
    at_node: AtNode,
    unconfirmed: UnconfirmedPolicy,
    retained: Retained,
    restored: RestoredState,
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
    scopes: Scopes,
    weight: u16,
    traffic_class: plan::TrafficClass,
    /// See [`Backend::generation`].
    generation: u32,
}

impl InstalledBackend {
    /// Writes what may change while programs use the entry.
    fn write(&self, allocator: &mut Allocator) -> Result<(), DataplaneError> {
        let class = encode::traffic_class(self.traffic_class);
        allocator.change_backend(self.id, self.scopes, self.weight, class)
    }
}

/// Slots for one list of backends.
#[derive(Debug)]
struct SlotRange {
    start: SlotIndex,
    /// Usually the plan's own list.
    members: Arc<[plan::Backend]>,
}

impl SlotRange {
    /// Whether its slots are those of a list. Classes of traffic are not in slots.
    fn is_of(&self, list: &[plan::Backend]) -> bool {
        plan::Backend::are_chosen_alike(&self.members, list)
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
            maps::open_slots(pins, limits.slots, Access::Write)?,
            // One more, because id 0 is none.
            maps::open_backends(pins, limits.backends.saturating_add(1), Access::Write)?,
            LastService::open(pins)?,
            RemovedBackendCounts::open(pins, limits.frontends)?,
            Rcu::new()?,
        );
        let mut reconciler = Self {
            frontends: Frontends::open(pins, limits.frontends)?,
            allocator,
            names: service_names::open(pins, limits.frontends)?,
            counters: maps::open_service_counters(pins)?,
            stats: maps::open_service_stats(pins)?,
            service_ports: BTreeMap::new(),
            at_node: AtNode::default(),
            unconfirmed: UnconfirmedPolicy::default(),
            retained: Retained::default(),
            restored: RestoredState::default(),
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

    /// See [`Allocator::backends`].
    pub fn backends(&self) -> Reader<Backend> {
        self.allocator.backends()
    }

    pub fn transfer_lock(&self) -> TransferLock {
        self.allocator.transfer_lock()
    }

    /// Pins its own maps again if they lost their pins; returns how many had.
    pub fn repair_pins(&self) -> Result<usize, DataplaneError> {
        Ok(usize::from(self.names.repair_pin()?)
            + self.allocator.repair_pins_of_removed_counts()?)
    }

    pub const fn frontend_entries(&self) -> &HashMap<FrontendKey, Frontend> {
        self.frontends.entries()
    }

    /// Whether an address and port is a frontend's, of any protocol.
    pub fn is_taken(&self, address: IpAddr, port: u16) -> bool {
        let address = Address::from(address);
        Protocol::ALL.into_iter().any(|protocol| {
            let key =
                FrontendKey { address, port: port.to_be(), protocol: protocol.byte(), padding: 0 };
            self.frontends.entries().contains_key(&key)
        })
    }

    /// See [`Allocator::count_untracked`].
    pub(super) fn count_untracked(
        &mut self,
        service: ServiceId,
        about: About,
    ) -> Result<(), DataplaneError> {
        self.allocator.count_untracked(service, about)
    }

    /// See [`Allocator::carried_sources`].
    pub(super) fn carried_sources(&self) -> Result<[u32; CARRIED_SOURCES], DataplaneError> {
        self.allocator.carried_sources()
    }

    /// Adds counts of other layouts to those of the service ports that are in the maps, and where they come from, in one step.
    pub(super) fn carry(
        &mut self,
        counts: &BTreeMap<ServiceKey, CarriedCounts>,
        sources: [u32; CARRIED_SOURCES],
    ) -> Result<(), DataplaneError> {
        let known = counts
            .iter()
            .filter_map(|(key, counts)| Some((self.service_ports.get(key)?.id, *counts)));
        self.allocator.carry(known.collect(), sources)
    }

    /// See [`Allocator::count_part`].
    pub(super) fn count_part(
        &mut self,
        record: &SocketRecord,
        part: &Part,
    ) -> Result<(), DataplaneError> {
        self.allocator.count_part(record, part)
    }

    pub(super) fn backend(&self, id: BackendId) -> Option<Backend> {
        self.allocator.backend(id)
    }

    /// The service ports, by their ids.
    pub(super) fn keys_by_id(&self) -> HashMap<ServiceId, &ServiceKey> {
        self.service_ports.iter().map(|(key, installed)| (installed.id, key)).collect()
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
            .service_ports
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
        self.service_ports
            .keys()
            .filter(|key| is_probe(&key.service))
            .map(|key| key.service.clone())
            .collect()
    }

    /// What happens to restored service ports that were in no plan yet.
    pub const fn set_unconfirmed_policy(&mut self, policy: UnconfirmedPolicy) {
        self.unconfirmed = policy;
    }

    /// With [`RestoredState::Stale`], service ports that would stay as an earlier agent left them are
    /// released.
    pub const fn set_restored_state(&mut self, state: RestoredState) {
        self.restored = state;
    }

    /// Service ports that were released, see [`RestoredState::Stale`].
    pub fn released(&self) -> usize {
        self.released.len()
    }

    /// See [`Allocator::programs`].
    pub const fn rcu(&self) -> &Rcu {
        self.allocator.rcu()
    }

    /// See [`Allocator::has_reclaimable`].
    pub fn has_reclaimable(&self) -> bool {
        self.allocator.has_reclaimable()
    }

    /// See [`Allocator::reclaim_before`].
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.allocator.reclaim_before(time)
    }
}
