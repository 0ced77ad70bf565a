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
//!
//! Invariants: every step leaves a state that [`Dataplane::open`] accepts, so an agent may be killed between any
//! two. An index in a map keeps its meaning until every program that may use it has ended. What fails for one
//! service affects only that service.

mod error;
mod maps;
mod observe;
mod pinning;
mod programs;
mod reconcile;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
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
        counters::{Counters, Counts},
        map_usage::{MapScan, ScannedUsage},
        overflow::OverLimit,
        snapshot::Snapshot,
        sockets::{Owners, SocketTable, StaleSocket},
    },
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
};
use self::{
    maps::{agent_record::RecordWriter, exclusion::ExcludedCgroups},
    observe::sockets::Sockets,
    pinning::{
        held_maps::HeldMaps,
        lock::{Lock, READERS_PATIENCE},
    },
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
    rcu::{CanWait, RunningPrograms},
};
use crate::{
    model::{
        node_addresses::NodePortScope,
        object::ObjectName,
        plan::{Plan, ServicePlan},
        probe_service::{Listeners, ProbeService},
    },
    mounts::{bpffs_again, mount_point_of},
};

/// How long to wait for the lock on the pins. `sockline status` holds it for an instant, an agent
/// that ends for some milliseconds, and `sockline check` while it connects if there is no agent.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What a data plane is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
    pub node: String,
    pub limits: Limits,
    /// Kernel features not to use.
    pub without: Vec<Feature>,
    /// All calls are bypassed this long after the agent's last heartbeat; `None` is never.
    pub fail_open_after: Option<Duration>,
    pub nested: NestedNamespaces,
    /// At whose addresses the programs look for NodePorts.
    pub node_ports: NodePortScope,
}

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
    /// Opens the pinned maps, or creates them. If an earlier agent of this layout was serving from
    /// them, the programs are attached at once; otherwise with the first sync, so that no call sees
    /// half a plan.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        let pins = Pins::in_bpffs(&options.bpffs);
        let Some(lock) = pins.lock_within(LOCK_PATIENCE)? else {
            return Err(in_use(&pins));
        };
        pins.finish_removal()?;
        pins.create()?;
        pins.close_to_others()?;
        raise_limits();
        let features = Features::probe_without(&options.without)?;
        maps::create(&pins, options.limits.affinity)?;
        let programs = Programs::load(&pins, features, options.node_ports, &maps::PINNED)?;
        let (node, cgroup) = (&options.node, &options.cgroup);
        let record = RecordWriter::create(&pins, node, cgroup, features.bits())?;
        let agent_state = AgentState::open(&pins, options.fail_open_after, options.nested)?;
        let reconciler = Reconciler::open(&pins, options.limits)?;
        let exclusion = ExcludedCgroups::open(&pins)?;
        let sockets = Sockets::open(&pins)?;
        let kept = HeldMaps::open(&pins, &map_names(), &maps::GROWABLE)?;
        let mut this = Self {
            cgroup: options.cgroup.clone(),
            features,
            reconciler,
            exclusion,
            sockets,
            programs,
            links: Links::default(),
            kept,
            record,
            agent_state,
            attached: false,
            retain_unconfirmed: false,
            release_unconfirmed: false,
            mount_point: mount_point_of(&options.bpffs),
            mount_bpffs: None,
            lock,
            pins,
        };
        // Without links, an agent was killed before it had applied its first plan.
        if !this.reconciler.is_empty() && this.pins.have_links() {
            this.attach()?;
        }
        Ok(this)
    }

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

    /// Compares pins and links with what they should be, and repairs drift: a few dozen system
    /// calls. Maps and links without a pin are held open here, so they serve all the time. Returns
    /// what was repaired, also if the result is an error.
    pub fn reconcile_links(&mut self) -> (Drift, Result<(), DataplaneError>) {
        let mut drift = Drift::default();
        let pinned = self.repair_directory().and_then(|()| self.repair_pins(&mut drift.pins));
        // Links are repaired even if nothing can be pinned.
        let mut attached = Attached::default();
        let linked = if self.attached {
            self.links.attach(&self.programs, &self.pins, &self.cgroup, &mut attached)
        } else {
            Ok(())
        };
        drift.links = attached.made.len() + attached.replaced.len();
        // A new link was never pinned.
        drift.pins += attached.pinned.len().saturating_sub(attached.made.len());
        (drift, pinned.and(linked))
    }

    fn repair_pins(&self, repaired: &mut usize) -> Result<(), DataplaneError> {
        let kept = self.kept.repair(&self.pins, repaired);
        *repaired += self.reconciler.repair_pins()?;
        kept
    }

    /// Creates the directory of the pins again if it was removed or its file system unmounted, and
    /// takes the lock on the new one.
    fn repair_directory(&mut self) -> Result<(), DataplaneError> {
        if !self.pins.are_locked_by(&self.lock) {
            self.mount_again()?;
            let Some(lock) = self.pins.lock_within(READERS_PATIENCE)? else {
                return Err(in_use(&self.pins));
            };
            self.lock = lock;
        }
        self.pins.create()?;
        // The owner may change the mode. Taking back what belongs to another user is left to the
        // next agent, which starts with more capabilities. The other repairs go on.
        if let Err(error) = self.pins.close_to_others() {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        Ok(())
    }

    /// The agent has no right to mount any more; its helper has.
    fn mount_again(&self) -> Result<(), DataplaneError> {
        let Err(error) = bpffs_again(&self.mount_point) else { return Ok(()) };
        match &self.mount_bpffs {
            Some(mount_bpffs) if mount_bpffs() => Ok(()),
            _ => Err(error.into()),
        }
    }

    /// Sets what mounts the BPF file system again when the agent itself must not. It logs its errors and
    /// returns whether it succeeded.
    pub fn set_mount_bpffs(&mut self, mount_bpffs: impl Fn() -> bool + Send + 'static) {
        self.mount_bpffs = Some(Box::new(mount_bpffs));
    }

    /// Compares about `entries` more entries of the maps with what they should be, and repairs
    /// drift. Returns what was repaired, also if the result is an error.
    pub fn reconcile_maps(
        &mut self,
        comparison: &mut Comparison,
        entries: usize,
    ) -> (Drift, Result<(), DataplaneError>) {
        let (mut drift, repaired) = self.reconciler.reconcile_maps(comparison, entries);
        if !comparison.is_at_its_end() {
            return (drift, repaired);
        }
        let exclusion = self.exclusion.repair().map(|count| drift.exclusion = count);
        (drift, repaired.and(exclusion))
    }

    /// How many entries a full comparison has.
    #[must_use]
    pub fn entries_to_compare(&self) -> usize {
        self.reconciler.entries_to_compare()
    }

    /// Compares the maps with what they should be, and with a plan. Changes nothing.
    pub fn compare(&self, plan: &Plan) -> Result<Drift, DataplaneError> {
        Ok(Drift {
            services: self.reconciler.pending(plan),
            exclusion: self.exclusion.drift()?,
            ..self.reconciler.compare()?
        })
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
    pub fn running_programs(&self) -> RunningPrograms {
        self.reconciler.programs().clone()
    }

    /// Whether freed entries can be reclaimed with [`Self::reclaim_before`], after
    /// [`RunningPrograms::synchronize_rcu`].
    pub fn has_reclaimable(&self) -> bool {
        self.reconciler.has_reclaimable()
    }

    /// Reclaims what was freed before this time. Every program that ran then must have ended.
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        self.reconciler.reclaim_before(time)
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            services: self.reconciler.services(),
            frontends: self.reconciler.frontends(),
            frontends_capacity: self.reconciler.frontends_capacity(),
            frontends_limit: self.reconciler.frontends_limit(),
            allocator: self.reconciler.allocator_usage(),
            names: self.reconciler.names_usage(),
            removed_counts: self.reconciler.removed_counts_usage(),
            retained: self.reconciler.retained(),
            waiting_for_address: self.reconciler.waiting_for_address(),
            released: self.reconciler.released(),
            exclusion: self.exclusion.usage(),
        }
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

/// How full the maps are.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub services: usize,
    pub frontends: usize,
    pub frontends_capacity: u32,
    pub frontends_limit: u32,
    pub allocator: AllocatorUsage,
    pub names: MapUsage,
    pub removed_counts: MapUsage,
    /// Service ports that are retained because an object is invalid.
    pub retained: usize,
    /// Service ports that lack an address because a retained one has it.
    pub waiting_for_address: usize,
    /// Service ports that only the previous agent knew and that are bypassed.
    pub released: usize,
    pub exclusion: MapUsage,
}

/// Removes all pins, which detaches the programs and frees the maps. Fails while an agent is
/// running. Returns what was removed.
pub fn cleanup(bpffs: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let pins = Pins::in_bpffs(bpffs);
    if !pins.root().exists() {
        return Ok(Vec::new());
    }
    let Some(_lock) = pins.lock_within(READERS_PATIENCE)? else {
        return Err(in_use(&pins));
    };
    pins.remove()
}

/// The error for an agent, of any layout version, that holds the lock.
fn in_use(pins: &Pins) -> DataplaneError {
    // In another PID namespace only its record has a process id for it.
    let recorded = || RecordWriter::read(pins).ok().map(|record| record.pid);
    DataplaneError::InUse {
        directory: pins.root().to_owned(),
        pid: pins.holder().or_else(recorded),
    }
}

fn raise_limits() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    // Before Linux 5.11, maps count against the limit of locked memory.
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "cannot raise the limit of locked memory");
    }
    // Each segment of the large maps is held open: 1,250 for a million backends.
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}
