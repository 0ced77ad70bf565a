//! What the agent says of itself: the control loop writes it, the servers and commands read it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    dataplane::{CanWait, Features, MapUsage, ScannedUsage, Usage},
    model::left_alone::Because,
    sock_destroy::Method,
    source::{SourceStats, WatchState},
};

/// The agent's own account of itself, over the admin socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub node: String,
    pub source: String,
    /// How the watches at the API server stand; empty when the source is a folder, and in what
    /// agents before this field say.
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
    /// What it waits for until it is ready.
    #[serde(default = "first_sync")]
    pub waiting_for: String,
    pub last_sync: Option<Timestamp>,
    pub last_sync_seconds: f64,
    pub syncs: u64,
    pub features: KernelFeatures,
    pub objects: Objects,
    pub maps: Vec<MapUse>,
    /// Entries, maps, pins and links that a comparison with the kernel found wrong and mended.
    pub repairs: u64,
    /// The same by kind, without those that there were none of.
    #[serde(default)]
    pub repairs_by_kind: BTreeMap<String, u64>,
    /// What of the kernel's side could not be looked after, and why.
    #[serde(default)]
    pub not_healing: Vec<String>,
    /// Service ports that are not as the objects have them, since not all objects can be read.
    #[serde(default)]
    pub unconfirmed: Unconfirmed,
    /// What is wrong with the input, each with names.
    pub problems: Vec<String>,
    /// What could not be brought into the kernel.
    pub failures: Vec<String>,
    /// Maps that the programs write and that are full, with what that costs.
    #[serde(default)]
    pub full: Vec<String>,
    /// Pods whose connections Sockline has no hand in.
    #[serde(default)]
    pub left_alone: Vec<LeftAlonePod>,
    #[serde(default)]
    pub closing: Closing,
    /// Whether what is not used any more in the maps can be given out again.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// Pods inside of which services are dialled from other network namespaces than the pod's own.
    #[serde(default)]
    pub nested_namespaces: Vec<NestedNamespaces>,
}

/// Service ports that are not as the objects have them, by what they are instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// As the last agent left them, until the source can be read in full.
    pub held_back: usize,
    /// As they were, because an object cannot be used.
    pub retained: usize,
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
            (self.released, "are bypassed until their objects can be read"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            parts.map(|(count, what)| format!("{count} service ports {what}")).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// What was found in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NestedNamespaces {
    /// `namespace/name`, or the uid of its cgroup where the source has no such pod.
    pub pod: String,
    pub namespaces: usize,
    /// Their calls go through unchanged.
    pub excluded: bool,
}

/// Whether the agent can wait for running programs, by its last try.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum Reclaim {
    Works,
    Fails(String),
    CannotTell(String),
    /// In what agents before this field say.
    #[default]
    Unsaid,
}

impl From<CanWait> for Reclaim {
    fn from(can_wait: CanWait) -> Self {
        match can_wait {
            CanWait::Yes => Self::Works,
            CanWait::No(why) => Self::Fails(why),
            CanWait::Unknown(why) => Self::CannotTell(why),
        }
    }
}

/// How it is with sockets whose backend is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// How they are closed; absent where the kernel cannot.
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
    /// Why some network namespaces could not be looked into, by the last look at all of them.
    pub unseen: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HelperState {
    /// Its process id.
    Running(u32),
    /// How; it is started again.
    Ended(String),
    /// How the process ended that could have started it again: only another agent can.
    Lost(String),
}

/// What is wrong with the helper process.
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
    /// What it waits for until it is ready, and why that does not come.
    #[must_use]
    pub fn waiting(&self) -> String {
        let why = match &self.source_errors[..] {
            [] => String::new(),
            [only] => format!(" ({only})"),
            [first, more @ ..] => format!(" ({first}, and {} more)", more.len()),
        };
        format!("waiting for {}{why}", self.waiting_for)
    }

    /// For how long the API server has said nothing about some kind that is not watched; `None` while
    /// all are watched, and for a folder.
    #[must_use]
    pub fn out_of_touch(&self) -> Option<Duration> {
        let lost = self.watches.iter().filter(|watch| !watch.connected);
        lost.filter_map(|watch| Duration::try_from_secs_f64(watch.age_seconds?).ok()).max()
    }
}

fn first_sync() -> String {
    "the first full sync".into()
}

/// A pod of this node that is to be left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlonePod {
    /// `namespace/name`
    pub pod: String,
    pub because: Because,
    pub running: bool,
    /// The kernel knows its cgroup; until then its connections are redirected.
    pub cgroup_found: bool,
    /// The kernel's map has no room for its cgroup: its connections are redirected.
    #[serde(default)]
    pub no_room: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFeatures {
    pub set_retval: bool,
    pub netns_cookie: bool,
    pub mptcp_sock: bool,
    /// Absent in what agents before this field say.
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

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUse {
    pub map: String,
    pub entries: u64,
    /// Entries that there is memory for now.
    pub capacity: u64,
    /// Entries that it may grow to.
    pub limit: u64,
}

/// A silent control loop is a sick agent.
const SILENCE: Duration = Duration::from_secs(60);

pub struct Shared {
    status: Mutex<Status>,
    stats: Arc<SourceStats>,
    ready: AtomicBool,
    heartbeat: Mutex<Instant>,
}

impl Shared {
    /// At the start of an agent for a node, with a source described in words.
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
            not_healing: Vec::new(),
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
            heartbeat: Mutex::new(Instant::now()),
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

    /// Says what keeps it from being ready; returns whether that is news.
    pub fn wait_for(&self, what: &str) -> bool {
        let mut status = lock(&self.status);
        let is_news = status.waiting_for != what;
        what.clone_into(&mut status.waiting_for);
        is_news
    }

    /// What keeps it from being ready, in words.
    pub fn waiting(&self) -> String {
        lock(&self.status).waiting()
    }

    /// What is wrong with the helper process, if there should be one.
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

    /// Why nothing that is not used any more is given out again; `None` if it is.
    pub fn reclaim_failure(&self) -> Option<String> {
        match &lock(&self.status).reclaim {
            Reclaim::Fails(why) => Some(why.clone()),
            _ => None,
        }
    }

    pub fn record_turn(&self) {
        *lock(&self.heartbeat) = Instant::now();
    }

    /// Whether the control loop has shown itself lately.
    pub fn is_alive(&self) -> bool {
        lock(&self.heartbeat).elapsed() < SILENCE
    }
}

/// The values are replaced whole, so what a panic left behind is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The maps' fill levels, in the terms of metrics and status. Those that programs write are as of the
/// last census.
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
        ("names", usage.names),
        ("retired", usage.removed_counts),
        ("left-alone", usage.left_alone),
    ];
    if let Some(counted) = counted {
        maps.push(("affinity", counted.affinity));
        maps.push(("counters", counted.counters));
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
