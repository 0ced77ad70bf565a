//! The kernel's side of the node. [`Dataplane`] is the only writer of the pinned maps.
//!
//! Called by the control loop (`agent`), and for reading by `check`, `cli` and `telemetry`. Each folder uses
//! only those above it in this list, and [`crate::bpf`]:
//!
//! - `error`: the errors.
//! - `pinning`: the folder in bpffs that keeps maps and links over restarts, and its lock.
//! - `programs`: loading the programs for this kernel's features, and attaching them.
//! - `maps`: what is in the maps: frontends, slots and backends with their allocator, names, the agent's state.
//! - `reconcile`: applies a plan to the maps, restores what an earlier agent left, repairs drift.
//! - `observe`: reads a node: snapshot, counters, usage of the maps, records of sockets.
//! - `open`, `repair`, `usage`: what [`Dataplane`] does with all of these.
//!
//! Invariants: every step leaves a state that [`Dataplane::open`] accepts, so an agent may be killed between any
//! two. An index in a map keeps its meaning until every program that may use it has ended. What fails for one
//! service affects only that service.

mod error;
mod maps;
mod observe;
mod open;
mod pinning;
mod programs;
mod reconcile;
mod repair;
mod usage;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use sockline_ebpf::id::ServiceId;

pub use self::{
    error::DataplaneError,
    maps::{
        agent_record::AgentRecord,
        agent_state::{AgentState, Bypass, Deadline, NestedNamespaces},
        allocator::AllocatorUsage,
        exclusion::CgroupLevels,
        map_names,
        namespaces::NetworkNamespaces,
        service_names::ServiceKey,
    },
    observe::{
        counters::{Counters, Counts, fault_name},
        map_usage::{MapScan, ScannedUsage},
        overflow::OverLimit,
        snapshot::Snapshot,
        sockets::{Owners, SocketTable, StaleSocket},
    },
    open::{Options, cleanup},
    pinning::layout::Pins,
    programs::{
        features::{Feature, Features},
        hook_state::{HookState, LoadedProgram, hooks, programs_by_id},
        links::Attachment,
        load::HOOKS,
    },
    reconcile::{
        Limits,
        drift::{Drift, DriftKind},
        repair::Comparison,
        report::{SyncError, SyncReport},
        service_port::InstalledPort,
        standalone::{Refused, Standalone},
    },
    usage::Usage,
};
use self::{
    maps::{agent_record::RecordWriter, exclusion::ExcludedCgroups},
    observe::sockets::Sockets,
    pinning::{held_maps::HeldMaps, lock::Lock},
    programs::{
        kernel_log,
        links::{Attached, Links},
        load::Programs,
    },
    reconcile::{Reconciler, encode, probe_service},
};
pub use crate::bpf::{
    error::{BpfError, Full},
    kinds::growable_hash::MapUsage,
    rcu::{Rcu, RcuSupport},
};
use crate::model::{
    object::ObjectName,
    plan::{Plan, ServicePlan},
    probe_service::{Listeners, ProbeService},
};

/// See [`Dataplane::set_mount_bpffs`].
type MountBpffs = Box<dyn Fn() -> bool + Send>;

/// What a sync did, and the error after it.
pub type Synced = (SyncReport, Result<(), DataplaneError>);

/// The only writer of the pinned maps.
pub struct Dataplane {
    pins: Pins,
    cgroup: PathBuf,
    features: Features,
    reconciler: Reconciler,
    exclusion: ExcludedCgroups,
    sockets: Sockets,
    programs: Programs,
    links: Links,
    kept: HeldMaps,
    record: RecordWriter,
    agent_state: AgentState,
    attached: bool,
    retain_unconfirmed: bool,
    release_unconfirmed: bool,
    /// Where the BPF file system is mounted.
    mount_point: PathBuf,
    mount_bpffs: Option<MountBpffs>,
    lock: Lock,
}

impl Dataplane {
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// What the programs know of this agent. A handle for any thread.
    #[must_use]
    pub fn agent_state(&self) -> AgentState {
        self.agent_state.clone()
    }

    /// The network namespaces that called services.
    pub fn network_namespaces(&self) -> Result<NetworkNamespaces, DataplaneError> {
        NetworkNamespaces::open(&self.pins)
    }

    /// The kernel's counters, to be read while this writes.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        Counters::open(&self.pins, self.reconciler.backends(), self.reconciler.transfer_lock())
    }

    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Forwards the programs' log to the agent's log. Needs a tokio runtime.
    pub fn forward_log(&mut self) {
        kernel_log::forward(self.programs.object());
    }

    /// Sets whether the next plans may lack services and endpoints that exist. While set, services
    /// that were restored from the maps stay unchanged until a plan has them with endpoints. So do
    /// excluded cgroups.
    pub const fn retain_unconfirmed(&mut self, retain_unconfirmed: bool) {
        self.retain_unconfirmed = retain_unconfirmed;
        self.reconciler.retain_unconfirmed(retain_unconfirmed);
        self.exclusion.retain_unconfirmed(retain_unconfirmed);
    }

    /// Sets whether the previous agent was gone for too long to trust what it left. While set,
    /// services that [`Self::retain_unconfirmed`] and [`Self::retain`] keep are removed and
    /// bypassed if they were in no plan of this process. So are those of another layout.
    pub const fn release_unconfirmed(&mut self, release: bool) {
        self.release_unconfirmed = release;
        self.reconciler.release_unconfirmed(release);
    }

    /// Sets the services that the next plans know nothing about: what the maps hold of them stays.
    pub fn retain(&mut self, services: &BTreeSet<ObjectName>) {
        self.reconciler.retain(services);
    }

    /// Whether [`Self::retain`] keeps a service port that was in no plan of this process.
    #[must_use]
    pub fn has_unconfirmed_retained(&self) -> bool {
        self.reconciler.has_unconfirmed_retained()
    }

    /// Marks services as deleted: what the maps hold of them does not stay, even if [`Self::retain`] has
    /// another service with the same name.
    pub fn mark_deleted(&mut self, services: &BTreeSet<ObjectName>) {
        self.reconciler.mark_deleted(services);
    }

    /// Whether cgroups are excluded only because an earlier agent excluded them, as of the last
    /// [`Self::exclude_cgroups`].
    #[must_use]
    pub fn has_unconfirmed_exclusions(&self) -> bool {
        self.exclusion.has_unconfirmed()
    }

    /// Applies a plan. A service that fails is in the report and affects only itself. The report is
    /// of what was done, also if the result is an error.
    pub fn sync(&mut self, plan: &Plan, node_addresses: &[IpAddr]) -> Synced {
        let report = self.reconciler.sync(plan, node_addresses);
        (report, self.synced())
    }

    /// Sets the addresses of other nodes at which NodePorts are served.
    pub fn set_other_nodes(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        self.reconciler.set_other_nodes(addresses)
    }

    /// Whether [`Self::sync_services`] can apply these changes. If not, they affect other services,
    /// and the whole plan has to be synced.
    pub fn is_local(&self, changes: &[ServicePlan]) -> bool {
        self.reconciler.is_local(changes)
    }

    /// Applies the plans of some services; the others stay unchanged. See [`Self::sync`].
    pub fn sync_services(&mut self, changes: &[ServicePlan]) -> Synced {
        let report = self.reconciler.sync_services(changes);
        (report, self.synced())
    }

    /// Applies the plans of services that did not fit before. Does not wait for freed entries.
    pub fn retry(&mut self, services: &[ServicePlan]) -> SyncReport {
        self.reconciler.retry(services)
    }

    /// Whether a map has more room than at the last call.
    pub const fn take_freed(&mut self) -> bool {
        self.reconciler.take_freed()
    }

    /// A scan of the maps that programs write, to be run on another thread.
    pub fn map_scan(&self) -> Result<MapScan, DataplaneError> {
        MapScan::new(
            &self.pins,
            &self.cgroup,
            self.features.compare_and_swap,
            self.reconciler.frontend_entries(),
        )
    }

    /// Services that have no counters because the map of counters is full: those not among these
    /// ids.
    pub fn without_counters(&self, counted: &HashSet<ServiceId>) -> Vec<String> {
        self.reconciler.without_counters(counted)
    }

    fn synced(&mut self) -> Result<(), DataplaneError> {
        // Links of another layout are taken over all at once, not by service. A retained service
        // does not delay that: one invalid object would keep all other services unchanged.
        let waits =
            self.retain_unconfirmed && !self.release_unconfirmed && self.pins.others_have_links();
        if !self.attached && !waits {
            self.agent_state.start();
            self.attach()?;
        }
        self.record.synced(SystemTime::now())
    }

    /// Excludes exactly these cgroups, with their levels, and unconfirmed ones of an earlier agent
    /// while they are retained. Returns those that do not fit.
    pub fn exclude_cgroups(&mut self, cgroups: &CgroupLevels) -> Result<Vec<u64>, DataplaneError> {
        self.exclusion.sync(cgroups)
    }

    /// The cgroup that the programs are attached to.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The node's addresses that NodePorts in the maps are at, without loopback: at first those of
    /// an earlier agent.
    #[must_use]
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        encode::node_addresses(self.reconciler.frontend_entries().values())
    }

    /// Whether the programs are attached. Until then, the programs of another layout may serve.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.attached
    }

    /// Sockets whose backend is gone; with an error if the list is incomplete.
    pub fn stale_sockets(&self) -> (Vec<StaleSocket>, Result<(), DataplaneError>) {
        self.sockets.stale_sockets(&self.reconciler)
    }

    /// Removes the record of a socket that was found in no network namespace.
    pub fn forget_socket(&mut self, socket: &StaleSocket) -> Result<(), DataplaneError> {
        self.sockets.forget(socket)
    }

    /// The socket table, to be read while this writes.
    #[must_use]
    pub const fn socket_table(&self) -> &SocketTable {
        self.sockets.table()
    }

    /// The current owners of the service addresses that these sockets dialled.
    #[must_use]
    pub fn owners(&self, stale_sockets: &[StaleSocket]) -> HashMap<(IpAddr, u16), Owners> {
        self.reconciler.owners(stale_sockets)
    }

    /// What the maps hold of a service.
    #[must_use]
    pub fn installed(&self, service: &ObjectName) -> Vec<InstalledPort> {
        self.reconciler.installed(service)
    }

    /// Adds a probe service with these listeners to the maps: all of it, or nothing.
    pub fn put_probe_service(
        &mut self,
        number: u64,
        listeners: Listeners,
    ) -> Result<(ProbeService, ServicePlan), DataplaneError> {
        probe_service::put(&mut self.reconciler, number, listeners)
    }

    pub fn remove_probe_service(&mut self, service: &ProbeService) -> Result<(), DataplaneError> {
        probe_service::remove(&mut self.reconciler, service.name())
    }

    /// The kernel's ids of the programs, by hook.
    pub fn program_ids(&self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        self.programs.ids()
    }

    /// To wait for running programs before freed entries are reclaimed.
    #[must_use]
    pub fn rcu(&self) -> Rcu {
        self.reconciler.rcu().clone()
    }

    /// Whether freed entries can be reclaimed with [`Self::reclaim_before`], after
    /// [`Rcu::synchronize_rcu`].
    pub fn has_reclaimable(&self) -> bool {
        self.reconciler.has_reclaimable()
    }

    /// Reclaims what was freed before this time. Every program that ran then must have ended.
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.reconciler.reclaim_before(time)
    }

    fn attach(&mut self) -> Result<(), DataplaneError> {
        let mut attached = Attached::default();
        self.links.attach(&self.programs, &self.pins, &self.cgroup, &mut attached)?;
        tracing::info!(
            cgroup = %self.cgroup.display(),
            replaced = attached.replaced.len(),
            made = attached.made.len(),
            "programs attached"
        );
        self.attached = true;
        Ok(())
    }
}
