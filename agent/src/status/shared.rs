//! The status that the agent's tasks share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    HelperState, HelperUnavailable, Objects, Reclaim, Source, Status, Termination,
    UnconfirmedServicePorts, first_sync,
};
use crate::{dataplane::Features, log_level::LogLevel, source::SourceStats};

/// The control loop is not alive if its last turn is older than this.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Shared {
    status: Mutex<Status>,
    stats: Arc<SourceStats>,
    log_level: LogLevel,
    ready: AtomicBool,
    last_turn: Mutex<Instant>,
}

impl Shared {
    /// The status at the start of an agent.
    pub fn new(
        node_name: String,
        source: Source,
        features: Features,
        stats: Arc<SourceStats>,
        log_level: LogLevel,
    ) -> Self {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node_name,
            source,
            watches: Vec::new(),
            source_errors: Vec::new(),
            node_addresses_error: None,
            start_time: Timestamp::now(),
            log_level: String::new(),
            program_log: None,
            ready: false,
            waiting_for: first_sync(),
            last_sync_time: None,
            last_sync_duration: None,
            syncs: 0,
            kernel_features: features.into(),
            telemetry: None,
            client_counts: None,
            bytes_counted: None,
            objects: Objects::default(),
            maps: Vec::new(),
            drift_repairs: BTreeMap::new(),
            reconcile_errors: Vec::new(),
            unconfirmed_service_ports: UnconfirmedServicePorts::default(),
            invalid_objects: Vec::new(),
            out_of_sync: Vec::new(),
            full_maps: Vec::new(),
            unreadable_maps: Vec::new(),
            excluded_pods: Vec::new(),
            termination: Termination {
                method: features.termination_method(),
                ..Termination::default()
            },
            reclaim: Reclaim::default(),
            nested_namespaces: Vec::new(),
        };
        Self {
            status: Mutex::new(status),
            stats,
            log_level,
            ready: AtomicBool::new(false),
            last_turn: Mutex::new(Instant::now()),
        }
    }

    pub fn status(&self) -> Status {
        Status {
            watches: self.stats.watches(),
            log_level: self.log_level.filter(),
            ..lock(&self.status).clone()
        }
    }

    pub const fn log_level(&self) -> &LogLevel {
        &self.log_level
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
        match &lock(&self.status).termination.helper {
            None | Some(HelperState::Running { .. }) => None,
            Some(HelperState::Exited { message }) => Some(HelperUnavailable::Away(message.clone())),
            Some(HelperState::Lost { message }) => Some(HelperUnavailable::Lost(message.clone())),
        }
    }

    pub fn set_ready(&self) {
        lock(&self.status).ready = true;
        self.ready.store(true, Ordering::Release);
    }

    /// Why freed map entries cannot be reclaimed; `None` if they can.
    pub fn reclaim_failure(&self) -> Option<String> {
        match &lock(&self.status).reclaim {
            Reclaim::Fails { message: why } => Some(why.clone()),
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
