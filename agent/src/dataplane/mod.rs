//! The kernel's side of the node. [`Dataplane`] is the only writer of the pinned maps.
//!
//! Called by the control loop (`agent`), and for reading by `check`, `cli` and `telemetry`. Each folder uses
//! only those above it in this list, and [`crate::bpf`]:
//!
//! - `error`: the errors. `retention`: what happens to what an earlier agent left.
//! - `pinning`: the folder in bpffs that keeps maps and links over restarts, and its lock.
//! - `programs`: loading the programs for this kernel's features, and attaching them.
//! - `maps`: what is in the maps: frontends, slots and backends with their allocator, names, the agent's state.
//! - `reconcile`: applies a plan to the maps, restores what an earlier agent left, repairs drift.
//! - `observe`: reads a node: snapshot, counters, usage of the maps, records of sockets.
//! - `open`, `plans`, `takeover`, `self_repair`, `total_usage`: what [`Dataplane`] does with all of these.
//!
//! Invariants: every step leaves a state that [`Dataplane::open`] accepts, so an agent may be killed between any
//! two. An index in a map keeps its meaning until every program that may use it has ended. What fails for one
//! service affects only that service.

mod error;
mod maps;
mod observe;
mod open;
mod pinning;
mod plans;
mod programs;
mod reconcile;
mod retention;
mod self_repair;
mod takeover;
mod total_usage;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use sockline_ebpf::{id::ServiceId, partly_counted::Part};

pub use self::{
    error::DataplaneError,
    maps::{
        agent_record::AgentRecord,
        agent_state::{AgentState, Bypass, Deadline, NestedNamespaces},
        allocator::AllocatorUsage,
        debug_log::{DebugLog, LoggedHooks, LoggedServices},
        exclusion::CgroupLevels,
        map_names,
        namespaces::NetworkNamespaces,
        partly_counted::{ConnectionKey, OpenConnection, OpenConnections, Unmarked},
        service_names::ServiceKey,
        socket_table::SocketTable,
    },
    observe::{
        clients::{ClientConnections, Clients},
        counters::{BackendFailures, Counters, Counts, FAULTS, FaultInfo, fault_name},
        events::{
            Events,
            decode::{Ended, Event, What},
        },
        map_usage::{MapScan, ScannedUsage, Unreadable},
        overflow::OverLimit,
        snapshot::Snapshot,
        sockets::{Owners, StaleSocket},
        translation::Translation,
    },
    open::{Options, cleanup},
    pinning::layout::Pins,
    plans::Synced,
    programs::{
        features::{FEATURES, FeatureSet, Features, missing as missing_features},
        hook_state::{HookState, LoadedProgram, hooks, programs_by_id},
        links::Attachment,
        load::HOOKS,
        run_stats::{ProgramStats, RunStats},
        telemetry::{ClientCounting, Telemetry},
    },
    reconcile::{
        Limits,
        drift::{Drift, DriftKind},
        repair::Comparison,
        report::{SyncError, SyncReport},
        service_port::InstalledPort,
        standalone::{Refused, Standalone},
    },
    retention::{RestoredState, UnconfirmedPolicy},
    total_usage::Usage,
};
use self::{
    maps::{agent_record::RecordWriter, exclusion::ExcludedCgroups, open_names, service_names},
    observe::sockets::Sockets,
    pinning::{held_maps::HeldMaps, lock::Lock},
    programs::{kernel_log, links::Links, load::Programs},
    reconcile::{Reconciler, encode},
};
pub use crate::bpf::{
    error::{BpfError, Full},
    kinds::growable_hash::MapUsage,
    rcu::{Rcu, RcuSupport},
};
use crate::model::object::ObjectName;

/// See [`Dataplane::set_mount_bpffs`].
type MountBpffs = Box<dyn Fn() -> bool + Send>;

/// The only writer of the pinned maps.
pub struct Dataplane {
    pins: Pins,
    cgroup: PathBuf,
    features: Features,
    reconciler: Reconciler,
    exclusion: ExcludedCgroups,
    sockets: Sockets,
    open_connections: OpenConnections,
    programs: Programs,
    links: Links,
    kept: HeldMaps,
    record: RecordWriter,
    agent_state: AgentState,
    attached: bool,
    unconfirmed: UnconfirmedPolicy,
    restored: RestoredState,
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

    /// Connections by client and service port, to be read while this writes.
    pub fn clients(&self) -> Result<Clients, DataplaneError> {
        Clients::open(&self.pins, self.features.set)
    }

    /// What happens to connections, while a client watches.
    pub fn events(&self) -> Result<Events, DataplaneError> {
        Events::open(&self.pins, self.agent_state(), self.reconciler.backends())
    }

    /// The switch of the programs' debug log.
    pub fn debug_log(&self) -> Result<DebugLog, DataplaneError> {
        DebugLog::open(&self.pins, self.agent_state())
    }

    /// The ids of a service's ports, or of the one with this name or number.
    #[must_use]
    pub fn service_ids(&self, service: &ObjectName, port: Option<&str>) -> Vec<ServiceId> {
        self.reconciler.service_ids(service, port)
    }

    /// The names of the ports of services.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.reconciler.service_keys()
    }

    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Forwards the programs' log to the agent's log. Needs a tokio runtime.
    pub fn forward_log(&mut self) {
        let pins = self.pins.clone();
        // Opened each time, because a larger map may be in its place. There are few lines.
        let name = move |service| {
            let names = open_names(&pins).ok()?;
            service_names::read(&names, service).ok().flatten().map(|key| key.to_string())
        };
        kernel_log::forward(self.programs.object(), name);
    }

    /// A scan of the maps that programs write, to be run on another thread.
    #[must_use]
    pub fn map_scan(&self) -> MapScan {
        MapScan::new(&self.pins, &self.cgroup, self.features, self.reconciler.frontend_entries())
    }

    /// Services that have no counters because the map of counters is full: those not among these
    /// ids.
    pub fn without_counters(&self, counted: &HashSet<ServiceId>) -> Vec<String> {
        self.reconciler.without_counters(counted)
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

    /// Removes the record of a socket that was found in no network namespace. Its connection counts as
    /// untracked; if the agent is killed in between, it stays active.
    pub fn forget_socket(&mut self, socket: &StaleSocket) -> Result<(), DataplaneError> {
        match self.sockets.forget(socket)? {
            Some((service, about)) => self.reconciler.count_untracked(service, about),
            None => Ok(()),
        }
    }

    /// Open connections, to be marked and read while this writes.
    #[must_use]
    pub fn open_connections(&self) -> OpenConnections {
        self.open_connections.clone()
    }

    /// Counts what is new of an open connection, which the kernel says now. The records must be those of the last
    /// [`OpenConnections::marked`]. If the agent is killed within this, what was new is lost.
    pub fn count_open(
        &mut self,
        connection: &OpenConnection,
        now: Part,
    ) -> Result<(), DataplaneError> {
        match self.open_connections.take(connection, now) {
            Some(part) => self.reconciler.count_part(&connection.record, &part),
            None => Ok(()),
        }
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

    /// What the kernel counts of the programs' runs, to be read while they are in use.
    pub fn program_stats(&self) -> Result<ProgramStats, DataplaneError> {
        self.programs.run_stats()
    }

    /// The kernel's ids of the programs, by hook.
    pub fn program_ids(&self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        self.programs.ids()
    }
}
