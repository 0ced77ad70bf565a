//! Counts long connections while they are open, beside the programs, which count each connection when it ends.
//!
//! A walk runs on a thread of its own: it marks records, waits for running programs, and has the helper process read what
//! the kernel has counted of the connections. The control loop then adds what is new to the maps. `maps/partly_counted.rs` of
//! the data plane says why nothing is counted twice or lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sockline_ebpf::partly_counted::Part;
use tokio::task::JoinError;

use super::background_job::BackgroundJob;
use crate::{
    dataplane::{
        Dataplane, DataplaneError, FeatureSet, OpenConnection, OpenConnections, Rcu, Telemetry,
        Unmarked,
    },
    helper::Helper,
    log_on_change::LogOnChange,
    status::BytesCounted,
};

/// Walks take at most this share of one processor: the kernel searches its whole TCP table for each network namespace.
const SHARE: u32 = 50;

pub struct LongConnections {
    /// `None` if connections are counted when they end only.
    walk: Option<Arc<Mutex<Walk>>>,
    job: BackgroundJob<anyhow::Result<Walked>>,
    interval: Duration,
    began: Instant,
    due: Instant,
    log: LogOnChange,
}

struct Walk {
    connections: OpenConnections,
    rcu: Rcu,
    helper: Helper,
    unmarked: Unmarked,
}

/// What a walk found.
#[derive(Default)]
struct Walked {
    connections: Vec<(OpenConnection, Part)>,
    /// Processor time of the helper.
    spent: Duration,
}

/// The result of a walk.
pub struct WalkResult(Result<anyhow::Result<Walked>, JoinError>);

impl LongConnections {
    /// Connections are counted that are open in two walks. Without a helper, nobody enters their network namespaces.
    pub fn new(
        interval: Duration,
        telemetry: Telemetry,
        dataplane: &Dataplane,
        helper: Option<Helper>,
    ) -> Self {
        let features = dataplane.features();
        let needed =
            FeatureSet::SOCKET_FIELDS | FeatureSet::COMPARE_AND_SWAP | FeatureSet::KERNEL_SOCKETS;
        let is_possible = telemetry == Telemetry::On && features.has(needed);
        let walk = helper.filter(|_| is_possible).map(|helper| Walk {
            connections: dataplane.open_connections(),
            rcu: dataplane.rcu(),
            helper,
            unmarked: Unmarked::new(),
        });
        Self {
            walk: walk.map(|walk| Arc::new(Mutex::new(walk))),
            job: BackgroundJob::default(),
            interval,
            began: Instant::now(),
            due: Instant::now() + interval,
            log: LogOnChange::new("cannot count connections while they are open"),
        }
    }

    /// When bytes of connections are counted.
    pub const fn bytes_counted(&self) -> BytesCounted {
        if self.walk.is_some() { BytesCounted::WhileOpen } else { BytesCounted::AtEnd }
    }

    /// When to call [`Self::start`].
    pub fn due(&self) -> Option<Instant> {
        (self.walk.is_some() && !self.job.is_running()).then_some(self.due)
    }

    /// Starts a walk, unless one runs.
    pub fn start(&mut self) {
        let Some(walk) = &self.walk else { return };
        let walk = Arc::clone(walk);
        self.began = Instant::now();
        self.job.start(move || {
            // After a panic the state is still valid: at worst, connections are marked one walk later.
            walk.lock().unwrap_or_else(PoisonError::into_inner).run()
        });
    }

    /// Waits for the walk to end; forever if none runs.
    pub async fn ended(&mut self) -> WalkResult {
        WalkResult(self.job.ended().await)
    }

    /// Counts what a walk found.
    pub fn count(&mut self, WalkResult(result): WalkResult, dataplane: &mut Dataplane) {
        let walked = result.context("reading open connections").flatten();
        // How much time the helper has spent in a walk that failed is not known.
        let spent = walked.as_ref().map_or_else(|_| self.began.elapsed(), |walked| walked.spent);
        self.due = Instant::now() + self.interval.max(spent * SHARE);
        let counted = walked.and_then(|walked| {
            // One that cannot be counted does not concern the others.
            let mut counted = Ok(());
            for (connection, now) in &walked.connections {
                counted = counted.and(dataplane.count_open(connection, *now));
            }
            Ok(counted?)
        });
        self.log.record(counted.as_ref().map_err(AsRef::as_ref).copied());
    }
}

impl Walk {
    fn run(&mut self) -> anyhow::Result<Walked> {
        self.unmarked = self.connections.mark(&self.unmarked);
        // Few nodes have no long connection at all, but those that do not should not pay for it.
        if self.connections.marked().is_empty() {
            return Ok(Walked::default());
        }
        self.rcu.synchronize_rcu().map_err(DataplaneError::from)?;
        let marked = self.connections.marked();
        let cookies: Vec<u64> = marked.iter().map(|connection| connection.cookie).collect();
        let (read, spent) = self.helper.read_connections(&cookies)?;
        let connections = marked.into_iter().filter_map(|connection| {
            let now = read.get(&connection.cookie)?;
            Some((connection, *now))
        });
        Ok(Walked { connections: connections.collect(), spent })
    }
}
