//! The status of the agent: the control loop writes it; the servers and the command line read it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    dataplane::{Features, MapUsage, RcuSupport, ScannedUsage, ServiceKey, Usage},
    model::exclusion::Reason,
    sock_destroy::Method,
    source::{SourceStats, WatchState},
};

/// The status, as `GET /status` of the admin socket returns it. Fields with a default are newer than 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub node: String,
    pub source: String,
    /// The state of each watch; empty if the source is a folder.
    #[serde(default)]
    pub watches: Vec<WatchState>,
    /// Why the source cannot be read.
    #[serde(default)]
    pub source_errors: Vec<String>,
    /// Why the node's addresses cannot be read: NodePorts stay at those known before.
    #[serde(default)]
    pub node_addresses_error: Option<String>,
    pub started: Timestamp,
    /// The first full sync is in the kernel.
    pub ready: bool,
    /// What it waits for before it is ready.
    #[serde(default = "first_sync")]
    pub waiting_for: String,
    pub last_sync: Option<Timestamp>,
    pub last_sync_seconds: f64,
    pub syncs: u64,
    pub features: KernelFeatures,
    pub objects: Objects,
    pub maps: Vec<MapUse>,
    /// Entries, maps, pins and links that reconciling has repaired.
    pub repairs: u64,
    /// The same by kind, without kinds that have none.
    #[serde(default)]
    pub repairs_by_kind: BTreeMap<String, u64>,
    /// Why pins and links, or maps, cannot be reconciled.
    #[serde(default)]
    pub reconcile_errors: Vec<String>,
    /// Service ports that differ from the objects, because not all objects can be read.
    #[serde(default)]
    pub unconfirmed: Unconfirmed,
    /// Problems of the objects, each with its object.
    pub problems: Vec<String>,
    /// What is not in the kernel as planned.
    pub failures: Vec<String>,
    /// Maps that the programs write and that are full, with the consequence.
    #[serde(default)]
    pub full: Vec<String>,
    /// Excluded pods: their connections are not redirected.
    #[serde(default)]
    pub left_alone: Vec<ExcludedPod>,
    #[serde(default)]
    pub closing: Closing,
    /// Whether freed map entries can be reclaimed.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// Pods with nested network namespaces that connect to services.
    #[serde(default)]
    pub nested_namespaces: Vec<NestedNamespaces>,
}

/// Service ports that differ from the objects, by what they are instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// As the last agent left them, until the source can be read in full.
    pub held_back: usize,
    /// As they were, because an object is invalid.
    pub retained: usize,
    /// Without some of their addresses, which retained ones keep.
    #[serde(default)]
    pub waiting_for_address: usize,
    /// Bypassed: they would be one of these, but the last agent had been gone for `--fail-open-after`.
    pub released: usize,
}

impl Unconfirmed {
    /// `None` if there are none.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let parts = [
            (
                self.held_back,
                "stay as the last agent left them until the source can be read in full",
            ),
            (self.retained, "stay as they were, because an object of theirs cannot be used"),
            (self.waiting_for_address, "lack an address that one of these keeps"),
            (self.released, "are bypassed until their objects can be read"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            parts.map(|(count, what)| format!("{count} service ports {what}")).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The nested network namespaces of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NestedNamespaces {
    /// `namespace/name`, or the uid of its cgroup where the source has no such pod.
    pub pod: String,
    pub namespaces: usize,
    /// Their calls are not translated.
    pub excluded: bool,
}

/// Whether the agent can wait for running programs, as of its last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum Reclaim {
    Works,
    Fails(String),
    CannotTell(String),
    /// An agent of an older version does not report it.
    #[default]
    Unsaid,
}

impl From<RcuSupport> for Reclaim {
    fn from(rcu_support: RcuSupport) -> Self {
        match rcu_support {
            RcuSupport::Supported => Self::Works,
            RcuSupport::Unsupported(why) => Self::Fails(why),
            RcuSupport::Unknown(why) => Self::CannotTell(why),
        }
    }
}

/// The termination of sockets whose backend was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// How they are closed; absent if the kernel cannot.
    pub method: Option<Method>,
    /// The process that closes them; absent if none was started.
    pub helper: Option<HelperState>,
    /// How often it was started again since the agent started.
    #[serde(default)]
    pub restarts: u64,
    /// Sockets closed since the agent started.
    pub udp: u64,
    pub tcp: u64,
    pub failed: u64,
    /// Why some network namespaces could not be searched, as of the last search of all.
    pub unseen: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HelperState {
    /// Its process id.
    Running(u32),
    /// How it ended; it is started again.
    Ended(String),
    /// How its supervisor ended. Only a restart of the agent starts both again.
    Lost(String),
}

/// What can be out of sync: not in the kernel as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnsyncedObject {
    ServicePort(ServiceKey),
    /// What is left of a service port that is not known any more: a description.
    Unknown(String),
    /// NodePorts at the addresses of other nodes.
    OtherNodes,
}

impl fmt::Display for UnsyncedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServicePort(port) => port.fmt(f),
            Self::Unknown(what) => f.write_str(what),
            Self::OtherNodes => f.write_str("NodePorts at other nodes' addresses"),
        }
    }
}

/// Why the helper process does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperUnavailable {
    #[error("the helper process has ended ({0}); it is started again")]
    Away(String),
    #[error(
        "the helper process's supervisor has ended ({0}): the agent has to be restarted, the kernel \
         serves meanwhile"
    )]
    Lost(String),
}

impl Status {
    /// What it waits for before it is ready, and why it still waits.
    #[must_use]
    pub fn waiting(&self) -> String {
        let why = match &self.source_errors[..] {
            [] => String::new(),
            [only] => format!(" ({only})"),
            [first, more @ ..] => format!(" ({first}, and {} more)", more.len()),
        };
        format!("waiting for {}{why}", self.waiting_for)
    }

    /// The age of the last event of a watch that is not connected, the oldest of them. `None` if all watches
    /// are connected, or the source is a folder.
    #[must_use]
    pub fn out_of_touch(&self) -> Option<Duration> {
        let lost = self.watches.iter().filter(|watch| !watch.connected);
        lost.filter_map(|watch| Duration::try_from_secs_f64(watch.age_seconds?).ok()).max()
    }
}

fn first_sync() -> String {
    "the first full sync".into()
}

/// An excluded pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedPod {
    /// `namespace/name`
    pub pod: String,
    pub because: Reason,
    pub running: bool,
    /// Its cgroup was found; until then its connections are redirected.
    pub cgroup_found: bool,
    /// The map has no room for its cgroup: its connections are redirected.
    #[serde(default)]
    pub no_room: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFeatures {
    pub set_retval: bool,
    pub netns_cookie: bool,
    pub mptcp_sock: bool,
    /// False if an agent of an older version does not report it.
    #[serde(default)]
    pub kernel_sockets: bool,
    /// As `kernel_sockets`.
    #[serde(default)]
    pub compare_and_swap: bool,
    /// As `compare_and_swap`.
    #[serde(default)]
    pub sock_destroy: bool,
    pub kernel_btf: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    pub services: usize,
    pub endpoint_slices: usize,
    pub endpoints: usize,
}

/// The usage of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUse {
    pub map: String,
    pub entries: u64,
    /// Entries that have memory now.
    pub capacity: u64,
    /// Maximum number of entries.
    pub limit: u64,
}

/// The control loop is not alive if its last turn is older than this.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Shared {
    status: Mutex<Status>,
    stats: Arc<SourceStats>,
    ready: AtomicBool,
    last_turn: Mutex<Instant>,
}

impl Shared {
    /// The status at the start of an agent. `source` is a description.
    pub fn new(node: String, source: String, features: Features, stats: Arc<SourceStats>) -> Self {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node,
            source,
            watches: Vec::new(),
            source_errors: Vec::new(),
            node_addresses_error: None,
            started: Timestamp::now(),
            ready: false,
            waiting_for: first_sync(),
            last_sync: None,
            last_sync_seconds: 0.0,
            syncs: 0,
            features: KernelFeatures {
                set_retval: features.set_retval,
                netns_cookie: features.netns_cookie.is_some(),
                mptcp_sock: features.mptcp_sock,
                kernel_sockets: features.kernel_sockets.is_some(),
                compare_and_swap: features.compare_and_swap,
                sock_destroy: features.sock_destroy,
                kernel_btf: features.kernel_btf,
            },
            objects: Objects::default(),
            maps: Vec::new(),
            repairs: 0,
            repairs_by_kind: BTreeMap::new(),
            reconcile_errors: Vec::new(),
            unconfirmed: Unconfirmed::default(),
            problems: Vec::new(),
            failures: Vec::new(),
            full: Vec::new(),
            left_alone: Vec::new(),
            closing: Closing { method: features.closing(), ..Closing::default() },
            reclaim: Reclaim::default(),
            nested_namespaces: Vec::new(),
        };
        Self {
            status: Mutex::new(status),
            stats,
            ready: AtomicBool::new(false),
            last_turn: Mutex::new(Instant::now()),
        }
    }

    pub fn status(&self) -> Status {
        Status { watches: self.stats.watches(), ..lock(&self.status).clone() }
    }

    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Sets what the agent waits for before it is ready. Returns whether that changed.
    pub fn wait_for(&self, what: &str) -> bool {
        let mut status = lock(&self.status);
        let changed = status.waiting_for != what;
        what.clone_into(&mut status.waiting_for);
        changed
    }

    /// What the agent waits for before it is ready, as a sentence.
    pub fn waiting(&self) -> String {
        lock(&self.status).waiting()
    }

    /// Why the helper process does not work; `None` if it does, or none was started.
    pub fn helper_unavailable(&self) -> Option<HelperUnavailable> {
        match &lock(&self.status).closing.helper {
            None | Some(HelperState::Running(_)) => None,
            Some(HelperState::Ended(how)) => Some(HelperUnavailable::Away(how.clone())),
            Some(HelperState::Lost(how)) => Some(HelperUnavailable::Lost(how.clone())),
        }
    }

    pub fn set_ready(&self) {
        lock(&self.status).ready = true;
        self.ready.store(true, Ordering::Release);
    }

    /// Why freed map entries cannot be reclaimed; `None` if they can.
    pub fn reclaim_failure(&self) -> Option<String> {
        match &lock(&self.status).reclaim {
            Reclaim::Fails(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Records a turn of the control loop.
    pub fn record_turn(&self) {
        *lock(&self.last_turn) = Instant::now();
    }

    /// Whether the control loop runs.
    pub fn is_alive(&self) -> bool {
        lock(&self.last_turn).elapsed() < LIVENESS_TIMEOUT
    }
}

/// Each value is replaced as a whole, so it is valid also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The maps' fill levels, in the terms of metrics and status. Those that programs write are as of the
/// last scan.
pub fn maps(usage: &Usage, counted: Option<&ScannedUsage>) -> Vec<MapUse> {
    let pool = &usage.allocator;
    let fill = |entries: u64, capacity: u32, limit: u32| MapUsage {
        entries,
        capacity: capacity.into(),
        limit: limit.into(),
    };
    let frontends = usage.frontends as u64;
    let mut maps = vec![
        ("frontends", fill(frontends, usage.frontends_capacity, usage.frontends_limit)),
        ("slots", fill(pool.slots.into(), pool.slots_allocated, pool.slots_limit)),
        ("backends", fill(pool.backends.into(), pool.backends_allocated, pool.backends_limit)),
        ("service-names", usage.names),
        ("removed-backends", usage.removed_counts),
        ("excluded", usage.exclusion),
    ];
    if let Some(counted) = counted {
        maps.push(("affinity", counted.affinity));
        maps.push(("service-counters", counted.counters));
        maps.extend(counted.sockets.map(|sockets| ("sockets", sockets)));
        maps.push(("overflow", counted.overflow));
    }
    maps.into_iter()
        .map(|(map, MapUsage { entries, capacity, limit })| MapUse {
            map: map.into(),
            entries,
            capacity,
            limit,
        })
        .collect()
}
