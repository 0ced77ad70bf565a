//! The running agent: source → index → data plane, with servers beside it.

mod api_server;
mod background_job;
mod control;
mod exclusion;
mod heartbeat;
mod nested_namespaces;
mod node_addresses;
mod reconcile;
mod start;
mod status_publisher;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::start::{Started, start};
use self::{
    api_server::ApiServer,
    control::{ControlThread, Inputs, Kernel},
    nested_namespaces::Nested,
    start::Ready,
};

use crate::{
    admin,
    check::Readiness,
    dataplane::{AgentState, Feature, Limits, NestedNamespaces},
    model::{
        left_alone::Policy,
        node_addresses::{NodePortAddresses, NodePortScope},
    },
    source::{
        self, Arrived, Connections, Route, SourceError, SourceStats, Unredirected, kube::Watched,
    },
    status::Shared,
    telemetry::{self, Metrics},
    termination::Termination,
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
    /// At whose addresses NodePorts are served.
    pub node_ports: NodePortScope,
}

impl Config {
    const fn watched(&self) -> Watched<'_> {
        Watched { node: self.node_name.as_str(), node_ports: self.node_ports }
    }
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
    let termination = Termination::new(
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
    let route = Arc::new(Route::default());
    if config.source == (Source::Kubernetes { kubeconfig: None })
        && source::kube::is_at_service_address()
    {
        route.set_through_service();
    }
    let api_server = source
        .api_server()
        .map(|configured| ApiServer::new(Arc::clone(&route), configured, &dataplane));
    let connections =
        Connections { route, unredirected: Arc::new(PastPrograms(dataplane.agent_state())) };

    // Ending one of these ends the process: an agent without its source or its metrics would look
    // alive and be none.
    let mut control = {
        let (config, stop) = (config.clone(), stop.clone());
        let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
        let kernel = Kernel { dataplane, termination, nested, api_server };
        let inputs = Inputs { changes, commands: asked };
        ControlThread::start(move || async move {
            control::run(kernel, inputs, &config, shared, metrics, stop).await;
        })?
    };
    let ended = tokio::select! {
        result = source.feed(config.watched(), connections, events, stats, stop.clone()) => {
            result.map_err(anyhow::Error::from)
        }
        () = telemetry::serve(listener, readiness, metrics, stop.clone()) => Ok(()),
        result = admin.serve(state, stop.clone()) => result,
        () = stop.cancelled() => Ok(()),
        () = control.ended() => Ok(()),
    };
    // Last: with the data plane the lock on the pins goes, and the next agent may start before the
    // admin socket's file is removed.
    stop.cancel();
    control.join().await.and(ended)
}

/// Connects past the programs that this agent keeps.
struct PastPrograms(AgentState);

impl Unredirected for PastPrograms {
    fn connect(&self, cookie: u64, connect: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let _bypass = self.0.bypass(cookie);
        connect()
    }
}

/// Notes when each change of a folder was read, which is not when the control loop comes to it.
async fn note_arrival(
    mut read: mpsc::Receiver<Vec<source::Event>>,
    arrived: mpsc::Sender<Arrived>,
) {
    while let Some(events) = read.recv().await {
        if arrived.send(Arrived { events, at: Instant::now() }).await.is_err() {
            return;
        }
    }
}

impl Ready {
    /// The address that is configured for an API server, which may be a name (`None`); nothing if the
    /// source is none.
    fn api_server(&self) -> Option<Option<(IpAddr, u16)>> {
        let Self::Kubernetes(config) = self else { return None };
        let url = &config.cluster_url;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(443);
        Some(host.parse().ok().map(|address| (address, port)))
    }

    /// Reports what there is and what changes, until `stop`.
    async fn feed(
        self,
        watched: Watched<'_>,
        connections: Connections,
        events: mpsc::Sender<Arrived>,
        stats: Arc<SourceStats>,
        stop: CancellationToken,
    ) -> Result<(), SourceError> {
        match self {
            Self::Manifests(folder) => {
                let (send, read) = mpsc::channel(1);
                let follow = source::follow::follow(folder, source::snapshots(), send, stop);
                tokio::join!(follow, note_arrival(read, events));
            }
            Self::Kubernetes(config) => {
                let route = Arc::clone(&connections.route);
                let client = source::client(*config, connections)?;
                source::kube::watch((client, route), watched, events, stats, stop).await;
            }
        }
        Ok(())
    }
}
