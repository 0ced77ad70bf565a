//! The running agent: source → index → data plane, with servers beside it.

mod control;
mod healing;
mod heartbeat;
mod interfaces;
mod left_alone;
mod left_out;
mod nested;
mod pacing;
mod report;
mod start;
mod test_services;

pub use self::left_out::LeftOutPort;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::start::{Started, start};
use self::{control::Kernel, nested::Nested, start::Ready};

use crate::{
    admin,
    check::Readiness,
    closing::Closing,
    dataplane::{Feature, Limits, NestedNamespaces},
    model::{left_alone::Policy, node_addresses::NodePortAddresses},
    source::{self, SourceError, SourceStats},
    status::Shared,
    telemetry::{self, Metrics},
};

/// Changes that may wait to be planned; more than that, and the source waits.
const EVENTS: usize = 4096;

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server that a kubeconfig file names, or the cluster this process runs in.
    Kubernetes { kubeconfig: Option<PathBuf> },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifests(folder) => write!(f, "manifests in {}", folder.display()),
            Self::Kubernetes { kubeconfig: Some(file) } => {
                write!(f, "Kubernetes API of {}", file.display())
            }
            Self::Kubernetes { kubeconfig: None } => f.write_str("Kubernetes API of this cluster"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    pub cgroup: Option<PathBuf>,
    pub bpffs: Option<PathBuf>,
    /// Metrics and health.
    pub listen: SocketAddr,
    pub admin_socket: PathBuf,
    pub limits: Limits,
    /// Kernel features to do without.
    pub without: Vec<Feature>,
    /// How long after the agent's last sign of life all calls are bypassed; `None` is never.
    pub fail_open_after: Option<Duration>,
    pub nested: NestedNamespaces,
    /// How often the kernel is compared with the plan.
    pub repair_interval: Duration,
    /// Which pods are left alone, whatever they say themselves.
    pub leave_alone: Policy,
    /// Which of the node's addresses NodePorts are at.
    pub node_port_addresses: NodePortAddresses,
}

/// Runs until `stop`. The kernel state stays in place afterwards. A running agent does not give up.
///
/// # Errors
/// When the kernel does not tell of what was just made in it.
pub async fn run(started: Started, stop: CancellationToken) -> anyhow::Result<()> {
    let Started { config, source, mut dataplane, can_wait, helper, listener, admin } = started;
    dataplane.forward_log();
    if !config.listen.ip().is_loopback() {
        tracing::info!(listen = %config.listen, "whoever reaches this address can read the metrics");
    }
    let listener = tokio::net::TcpListener::from_std(listener)?;

    let stats = Arc::new(SourceStats::default());
    let shared = Arc::new(Shared::new(
        config.node_name.clone(),
        config.source.to_string(),
        dataplane.features(),
        Arc::clone(&stats),
    ));
    shared.update(|status| status.reclaim = can_wait.into());
    let metrics = Arc::new(Metrics::new(dataplane.counters()?, Arc::clone(&stats))?);
    let nested = Nested::new(config.nested, &dataplane, helper.clone())?;
    let closing = Closing::new(
        helper,
        config.repair_interval,
        &dataplane,
        Arc::clone(&shared),
        Arc::clone(&metrics),
    );
    let readiness = Arc::new(Readiness::new(Arc::clone(&shared), &dataplane)?);
    let (events, changes) = mpsc::channel(EVENTS);
    // Few and small: what clients of the admin socket ask for, each waiting for its answer.
    let (commands, asked) = mpsc::unbounded_channel();
    let state =
        admin::State { shared: Arc::clone(&shared), commands, programs: dataplane.program_ids()? };

    // Ending one of these ends the process: an agent without its source or its metrics would look
    // alive and be none.
    let stopped = stop.clone();
    let control = control::run(
        Kernel { dataplane, closing, nested },
        changes,
        asked,
        &config,
        Arc::clone(&shared),
        Arc::clone(&metrics),
        stop.clone(),
    );
    let (reported, arrivals) = mpsc::channel(EVENTS);
    tokio::select! {
        result = source.feed(&config.node_name, reported, stats, stop.clone()) => result?,
        () = note_arrival(arrivals, events) => {}
        () = telemetry::serve(listener, readiness, metrics, stop.clone()) => {}
        result = admin.serve(state, stop.clone()) => result?,
        () = stopped.cancelled() => {}
        // Last, because these are dropped in order: with the data plane the lock on the pins goes,
        // and the next agent may start before the admin socket's file is removed.
        () = control => {}
    }
    Ok(())
}

/// A change with the time at which the source reported it.
struct Arrived {
    event: source::Event,
    at: Instant,
}

/// Notes when each change arrives, which is not when the control loop comes to it.
async fn note_arrival(mut arrivals: mpsc::Receiver<source::Event>, events: mpsc::Sender<Arrived>) {
    while let Some(event) = arrivals.recv().await {
        if events.send(Arrived { event, at: Instant::now() }).await.is_err() {
            return;
        }
    }
}

impl Ready {
    /// Reports what there is and what changes, until `stop`.
    async fn feed(
        self,
        node: &str,
        events: mpsc::Sender<source::Event>,
        stats: Arc<SourceStats>,
        stop: CancellationToken,
    ) -> Result<(), SourceError> {
        match self {
            Self::Manifests(folder) => {
                source::follow::follow(folder, source::snapshots(), events, stop).await;
            }
            Self::Kubernetes(config) => {
                let client = source::client(*config)?;
                source::kube::watch(client, node, events, stats, stop).await;
            }
        }
        Ok(())
    }
}
