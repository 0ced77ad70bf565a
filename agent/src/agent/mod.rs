//! The running agent.
//!
//! `cli` calls [`start`] and then [`run`], which connects the tasks: the source sends events to the control
//! loop (`control/`), which plans and writes the maps; beside it run the servers of the metrics and of the
//! admin socket. All other files here are parts that the control loop owns.
//!
//! Invariants: only the control loop writes the maps. The process ends when one of its tasks ends.

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
        exclusion::Policy,
        node_addresses::{NodePortAddresses, NodePortScope},
    },
    source::{
        self, Arrived, ClientError, ConnectBypass, Connections, ServerAddresses, SourceStats,
        kube::Watched, manifests,
    },
    status::Shared,
    telemetry::{self, Metrics},
    termination::Termination,
};

/// How many events may wait for the control loop. The source waits when there are more.
const EVENTS: usize = 4096;

/// The source of the objects.
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
    /// Kernel features that are not used.
    pub without: Vec<Feature>,
    /// How long after the agent last renewed its deadline all calls are bypassed; `None` is never.
    pub fail_open_after: Option<Duration>,
    pub nested: NestedNamespaces,
    /// How often the maps are reconciled.
    pub reconcile_interval: Duration,
    /// Which pods are excluded, regardless of their labels and annotations.
    pub excluded_pods: Policy,
    /// Which of the node's addresses serve NodePorts.
    pub node_port_addresses: NodePortAddresses,
    /// Which nodes' NodePorts are served.
    pub node_ports: NodePortScope,
}

impl Config {
    const fn watched(&self) -> Watched<'_> {
        Watched { node: self.node_name.as_str(), node_ports: self.node_ports }
    }
}

/// Runs until `stop`. The kernel state stays in place afterwards.
///
/// # Errors
/// When maps or programs that were just opened cannot be read, or a task ends with an error.
pub async fn run(started: Started, stop: CancellationToken) -> anyhow::Result<()> {
    let Started { config, source, mut dataplane, rcu_support, helper, listener, admin } = started;
    dataplane.forward_log();
    if !config.listen.ip().is_loopback() {
        tracing::info!(listen = %config.listen, "the metrics are readable by all clients that reach this address");
    }
    let listener = tokio::net::TcpListener::from_std(listener)?;

    let stats = Arc::new(SourceStats::default());
    let shared = Arc::new(Shared::new(
        config.node_name.clone(),
        config.source.to_string(),
        dataplane.features(),
        Arc::clone(&stats),
    ));
    shared.update(|status| status.reclaim = rcu_support.into());
    let metrics = Arc::new(Metrics::new(dataplane.counters()?, Arc::clone(&stats)));
    let nested = Nested::new(config.nested, &dataplane, helper.clone())?;
    let termination = Termination::new(
        helper,
        config.reconcile_interval,
        &dataplane,
        Arc::clone(&shared),
        Arc::clone(&metrics),
    );
    let readiness = Arc::new(Readiness::new(Arc::clone(&shared), &dataplane)?);
    let (events, changes) = mpsc::channel(EVENTS);
    // Unbounded, because there are few: each client of the admin socket waits for its reply.
    let (commands, asked) = mpsc::unbounded_channel();
    let state =
        admin::State { shared: Arc::clone(&shared), commands, programs: dataplane.program_ids()? };
    let addresses = Arc::new(ServerAddresses::default());
    if config.source == (Source::Kubernetes { kubeconfig: None })
        && source::kube::is_at_service_address()
    {
        addresses.set_through_service();
    }
    let api_server = source
        .api_server()
        .map(|configured| ApiServer::new(Arc::clone(&addresses), configured, &dataplane));
    let connections =
        Connections { addresses, bypass: Arc::new(BypassPrograms(dataplane.agent_state())) };

    // The end of one of these ends the process: an agent without its source or its metrics would seem to
    // work.
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
    // Last: this releases the lock on the pins, and the next agent may start before the file of the admin
    // socket is removed.
    stop.cancel();
    control.join().await.and(ended)
}

/// Connects without redirection by this agent's programs.
struct BypassPrograms(AgentState);

impl ConnectBypass for BypassPrograms {
    fn connect(&self, cookie: u64, connect: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let _bypass = self.0.bypass(cookie);
        connect()
    }
}

/// Adds the time at which each change of a folder was read; the control loop may receive it later.
async fn add_arrival_time(
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
    /// The configured address of the API server: `None` without one, `Some(None)` if it is a name.
    fn api_server(&self) -> Option<Option<(IpAddr, u16)>> {
        let Self::Kubernetes(config) = self else { return None };
        let url = &config.cluster_url;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(443);
        Some(host.parse().ok().map(|address| (address, port)))
    }

    /// Sends all objects and their changes, until `stop`.
    async fn feed(
        self,
        watched: Watched<'_>,
        connections: Connections,
        events: mpsc::Sender<Arrived>,
        stats: Arc<SourceStats>,
        stop: CancellationToken,
    ) -> Result<(), ClientError> {
        match self {
            Self::Manifests(folder) => {
                let (send, read) = mpsc::channel(1);
                let follow =
                    manifests::follow::follow(folder, manifests::folder::reader(), send, stop);
                tokio::join!(follow, add_arrival_time(read, events));
            }
            Self::Kubernetes(config) => {
                let addresses = Arc::clone(&connections.addresses);
                let client = source::client(*config, connections)?;
                source::kube::watch((client, addresses), watched, events, stats, stop).await;
            }
        }
        Ok(())
    }
}
