//! Opening the data plane, and removing all of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Dataplane,
    error::DataplaneError,
    maps::{
        self,
        agent_record::RecordWriter,
        agent_state::{AgentState, NestedNamespaces},
        client_gc::ClientGc,
        exclusion::ExcludedCgroups,
        map_names,
        partly_counted::OpenConnections,
    },
    observe::sockets::Sockets,
    pinning::{held_maps::HeldMaps, layout::Pins, lock::READERS_TIMEOUT},
    programs::{
        features::{FeatureSet, Features},
        links::Links,
        load::Programs,
        telemetry::{self, ClientCounting, Telemetry},
    },
    reconcile::{Limits, Reconciler},
    retention::{RestoredState, UnconfirmedPolicy},
};
use crate::{model::node_addresses::NodePortScope, mounts::mount_point_of};

/// How long to wait for the lock on the pins. `sockline status` holds it for an instant, an agent
/// that ends for some milliseconds, and `sockline check` while it connects if there is no agent.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a data plane is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
    pub node: String,
    pub limits: Limits,
    /// Kernel features not to use.
    pub without: FeatureSet,
    /// All calls are bypassed this long after the agent's last heartbeat; `None` is never.
    pub fail_open_after: Option<Duration>,
    pub nested: NestedNamespaces,
    /// At whose addresses the programs look for NodePorts.
    pub node_ports: NodePortScope,
    pub telemetry: Telemetry,
    pub client_counts: ClientCounting,
}

impl Dataplane {
    /// Opens the pinned maps, or creates them. If an earlier agent of this layout was serving from
    /// them, the programs are attached at once; otherwise with the first sync, so that no call sees
    /// half a plan.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        let pins = Pins::in_bpffs(&options.bpffs);
        let Some(lock) = pins.lock_within(LOCK_TIMEOUT)? else {
            return Err(in_use(&pins));
        };
        pins.finish_removal()?;
        pins.create()?;
        pins.close_to_others()?;
        raise_limits();
        let features = Features::probe_without(options.without)?;
        let telemetry = telemetry::Settings::new(
            features.socket_fields,
            options.telemetry,
            options.client_counts,
        )?;
        let Limits { affinity, clients, .. } = options.limits;
        maps::create(&pins, maps::Sizes { affinity, clients })?;
        let programs =
            Programs::load(&pins, features, &telemetry, options.node_ports, &maps::PINNED)?;
        let (node, cgroup) = (&options.node, &options.cgroup);
        let record = RecordWriter::create(&pins, node, cgroup, features.set)?;
        let agent_state = AgentState::open(&pins, options.fail_open_after, options.nested)?;
        let reconciler = Reconciler::open(&pins, options.limits)?;
        // Before any service gets an id. Without it, services are served all the same.
        if let Err(error) = ClientGc::open(&pins).and_then(|mut gc| gc.run()) {
            tracing::warn!("counts of clients may be those of deleted services: {error}");
        }
        let exclusion = ExcludedCgroups::open(&pins)?;
        let sockets = Sockets::open(&pins)?;
        let open_connections = OpenConnections::open(&pins)?;
        let kept = HeldMaps::open(&pins, &map_names(), &maps::GROWABLE)?;
        let mut this = Self {
            cgroup: options.cgroup.clone(),
            features,
            reconciler,
            exclusion,
            sockets,
            open_connections,
            programs,
            links: Links::default(),
            kept,
            record,
            agent_state,
            attached: false,
            unconfirmed: UnconfirmedPolicy::default(),
            restored: RestoredState::default(),
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

/// Removes all pins, which detaches the programs and frees the maps. Fails while an agent is
/// running. Returns what was removed.
pub fn cleanup(bpffs: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let pins = Pins::in_bpffs(bpffs);
    if !pins.root().exists() {
        return Ok(Vec::new());
    }
    let Some(_lock) = pins.lock_within(READERS_TIMEOUT)? else {
        return Err(in_use(&pins));
    };
    pins.remove()
}

/// The error for an agent, of any layout version, that holds the lock.
pub(super) fn in_use(pins: &Pins) -> DataplaneError {
    // In another PID namespace only its record has a process id for it.
    let recorded = || RecordWriter::read(pins).ok().map(|record| record.pid);
    DataplaneError::InUse {
        directory: pins.root().to_owned(),
        pid: pins.holder().or_else(recorded),
    }
}
