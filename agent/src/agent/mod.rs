//! The running agent: source → index → data plane, with servers beside it.

mod control;
mod interfaces;
mod left_alone;
mod pacing;
mod report;
mod test_services;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    check::Readiness,
    dataplane::{self, Dataplane, Feature, Limits},
    model::left_alone::Policy,
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
    /// How often the kernel is compared with the plan.
    pub repair_interval: Duration,
    /// Which pods are left alone, whatever they say themselves.
    pub leave_alone: Policy,
}

/// Runs until `stop`. The kernel state stays in place afterwards.
///
/// # Errors
/// When it cannot start: missing privileges or kernel features, another agent on the same pins, an
/// address in use, an unusable kubeconfig. A running agent does not give up.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    must_be_root()?;
    // Before the kernel is touched, because it can fail.
    let reader = Reader::of(&config.source).await?;
    let mut dataplane = open(&config)?;
    dataplane.forward_log();
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
    if !config.listen.ip().is_loopback() {
        tracing::info!(listen = %config.listen, "whoever reaches this address can read the metrics");
    }
    let admin = admin::Server::bind(&config.admin_socket)?;

    let stats = Arc::new(SourceStats::default());
    let shared = Arc::new(Shared::new(
        config.node_name.clone(),
        config.source.to_string(),
        dataplane.features(),
        Arc::clone(&stats),
    ));
    let metrics = Arc::new(Metrics::new(dataplane.counters()?, Arc::clone(&stats))?);
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
        dataplane,
        changes,
        asked,
        &config,
        Arc::clone(&shared),
        Arc::clone(&metrics),
        stop.clone(),
    );
    let (reported, arrivals) = mpsc::channel(EVENTS);
    tokio::select! {
        () = reader.feed(&config.node_name, reported, stats, stop.clone()) => {}
        () = note_arrival(arrivals, events) => {}
        () = telemetry::serve(listener, readiness, metrics, stop.clone()) => {}
        () = admin.serve(state, stop.clone()) => {}
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

fn must_be_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "sockline agent must run as root: it loads BPF programs and attaches them to the root \
         cgroup (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN), and keeps them in /sys/fs/bpf"
    );
    Ok(())
}

fn open(config: &Config) -> anyhow::Result<Dataplane> {
    let options = dataplane::Options {
        cgroup: dataplane::cgroup(config.cgroup.as_deref())?,
        bpffs: dataplane::bpffs(config.bpffs.as_deref())?,
        node: config.node_name.clone(),
        limits: config.limits,
        without: config.without.clone(),
    };
    let dataplane = Dataplane::open(&options)?;
    let features = dataplane.features();
    if !features.set_retval {
        tracing::warn!("this kernel has no bpf_set_retval (Linux 5.18): refusals are EPERM");
    }
    if !features.compare_and_swap {
        tracing::info!(
            "this kernel's programs cannot compare and swap (Linux 5.12): sockets are remembered in \
             socket storage, which costs more per connection and cannot be counted"
        );
    }
    if features.netns_cookie.is_none() {
        tracing::info!(
            "this kernel has no SO_NETNS_COOKIE (Linux 5.14): loopback NodePorts are served to the \
             initial network namespace"
        );
    }
    if !features.mptcp_sock {
        tracing::info!(
            "this kernel has no bpf_skc_to_mptcp_sock (Linux 6.0 with BTF): the peer name of MPTCP \
             sockets is the backend's"
        );
    } else if !features.kernel_btf {
        tracing::info!("there is no /sys/kernel/btf/vmlinux; nothing here needs it");
    }
    Ok(dataplane)
}

/// A source that is ready to be read.
enum Reader {
    Manifests(PathBuf),
    Kubernetes(kube::Client),
}

impl Reader {
    async fn of(source: &Source) -> Result<Self, SourceError> {
        Ok(match source {
            Source::Manifests(folder) => Self::Manifests(folder.clone()),
            Source::Kubernetes { kubeconfig } => {
                Self::Kubernetes(source::client(kubeconfig.as_deref()).await?)
            }
        })
    }

    async fn feed(
        self,
        node: &str,
        events: mpsc::Sender<source::Event>,
        stats: Arc<SourceStats>,
        stop: CancellationToken,
    ) {
        match self {
            Self::Manifests(folder) => {
                source::follow::follow(folder, source::snapshots(), events, stop).await;
            }
            Self::Kubernetes(client) => {
                source::kube::watch(client, node, events, stats, stop).await;
            }
        }
    }
}
