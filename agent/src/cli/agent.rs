//! `sockline agent`: serve this node.
//!
//! `tokio::signal`, which is built on `signal-hook`, handles signals here. In the helper they stay blocked: it ends with its
//! socket.

mod log;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{
    ArgAction, Args,
    builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser},
};
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::log::LogFormat;
use super::client_metrics::ClientMetricsArgs;
use crate::{
    admin,
    agent::{self, Config, Source},
    dataplane::{ClientCounting, FEATURES, FeatureSet, Limits, NestedNamespaces, Telemetry},
    duration, malloc,
    model::{
        exclusion::Policy,
        node_addresses::{AddressRange, NodePortAddresses, NodePortScope},
        selector::Selector,
    },
};

/// Serve this node's services: load the kernel programs and keep their maps current.
///
/// Without --manifests, Services and EndpointSlices come from the Kubernetes API. SIGTERM ends the agent and leaves
/// the kernel state in place, which keeps serving connections; `sockline cleanup` removes it.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Read Kubernetes manifests (*.yaml, *.yml, *.json) from this folder and follow its changes
    #[arg(long, value_name = "DIR", env = "SOCKLINE_MANIFESTS", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// kubeconfig file for the API server [default: the configuration of a pod of the cluster]
    #[arg(long, value_name = "FILE", env = "SOCKLINE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Name of this node's Node object [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME", env = "SOCKLINE_NODE_NAME")]
    node_name: Option<String>,
    /// cgroup v2 folder to attach to: sockets of processes in and below it are served [default:
    /// the root of cgroup v2, found in the mount table or mounted]
    #[arg(long, value_name = "DIR", env = "SOCKLINE_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// Folder in a BPF file system for the kernel state, under `sockline/` [default: the mounted
    /// one, usually /sys/fs/bpf; mounted if it is missing]
    #[arg(long, value_name = "DIR", env = "SOCKLINE_BPF_ROOT")]
    bpf_root: Option<PathBuf>,
    /// Where to serve /metrics, /healthz and /readyz
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "SOCKLINE_METRICS_BIND_ADDRESS",
        default_value = "127.0.0.1:9470"
    )]
    metrics_bind_address: SocketAddr,
    /// UNIX socket that the other commands connect to, such as `sockline status` and `sockline watch`
    #[arg(long, value_name = "PATH", env = "SOCKLINE_ADMIN_SOCKET", default_value = admin::DEFAULT_SOCKET)]
    admin_socket: PathBuf,
    /// Maximum number of service addresses (address, port, protocol) in the kernel
    #[arg(long, value_name = "N", env = "SOCKLINE_MAX_FRONTENDS", default_value_t = Limits::default().frontends,
          value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_frontends: u32,
    /// Maximum number of backends in the kernel; a pod counts once for each service port it serves
    #[arg(long, value_name = "N", env = "SOCKLINE_MAX_BACKENDS", default_value_t = Limits::default().backends,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::default().backends)))]
    max_backends: u32,
    /// Maximum number of slots in the kernel: one for each backend of a service port, and a second one
    /// while its list of backends is replaced
    #[arg(long, value_name = "N", env = "SOCKLINE_MAX_SLOTS", default_value_t = Limits::default().slots,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::default().slots)))]
    max_slots: u32,
    /// Maximum number of session affinities, one for each client and service. The agent allocates memory
    /// for all of them at the start, about 100 bytes each
    #[arg(long, value_name = "N", env = "SOCKLINE_MAX_AFFINITY", default_value_t = Limits::default().affinity,
          value_parser = clap::value_parser!(u32).range(1024..=1 << 22))]
    max_affinity: u32,
    /// Maximum number of counts of connections by client and service port; those that changed least recently
    /// are dropped. The agent allocates memory for all of them at the start, about 130 bytes each
    #[arg(long, value_name = "N", env = "SOCKLINE_MAX_CLIENTS", default_value_t = Limits::default().clients,
          value_parser = clap::value_parser!(u32).range(1024..=1 << 22))]
    max_clients: u32,
    /// Bypass all calls when the agent has been gone or stuck for this long (such as 90s, 5m; at least
    /// 10s), until an agent has synced again. For clusters that also run kube-proxy; without kube-proxy,
    /// no service is reachable from then on [default: 0, never: the kernel keeps serving the last known
    /// state]
    #[arg(long, value_name = "DURATION", env = "SOCKLINE_FAIL_OPEN_AFTER", value_parser = fail_open_after)]
    fail_open_after: Option<Duration>,
    /// How often to compare the kernel's maps and links with the plan, and repair them (such as 30s, 5m;
    /// 1s to 24h)
    #[arg(long, value_name = "DURATION", env = "SOCKLINE_RECONCILE_INTERVAL", default_value = "60s",
          value_parser = reconcile_interval)]
    reconcile_interval: Duration,
    /// Exclude the pods of these namespaces: their connections are not translated
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        env = "SOCKLINE_EXCLUDE_NAMESPACES"
    )]
    exclude_namespaces: Vec<String>,
    /// Exclude the pods with these labels (as in `kubectl get pods -l`)
    #[arg(long, value_name = "SELECTOR", env = "SOCKLINE_EXCLUDE_POD_SELECTOR")]
    exclude_pod_selector: Option<Selector>,
    /// Addresses of the node that serve NodePorts: `all`, `primary` (the first of each family in the Node
    /// object), or ranges such as 192.0.2.0/24. As with kube-proxy, all addresses of a family without a
    /// range serve them [default: all]
    #[arg(long, value_name = "RANGE", value_delimiter = ',', env = "SOCKLINE_NODEPORT_ADDRESSES")]
    nodeport_addresses: Vec<AddressRange>,
    /// Do not translate connections from network namespaces that were created inside pods, such as those
    /// of a cluster in a container (kind, k3s in CI). Costs one more hash look-up for each connection to
    /// a service
    #[arg(long, env = "SOCKLINE_EXCLUDE_NESTED_NAMESPACES", value_parser = BoolishValueParser::new())]
    exclude_nested_namespaces: bool,
    /// Serve NodePorts at the addresses of all nodes, not only of this one. For clusters without
    /// kube-proxy. The agent then watches all Nodes
    #[arg(long, env = "SOCKLINE_NODEPORTS_OF_ALL_NODES", value_parser = BoolishValueParser::new())]
    nodeports_of_all_nodes: bool,
    /// Record how each connection ended (bytes, round-trip time, failures) when its socket is closed
    #[arg(long, value_enum, value_name = "MODE", env = "SOCKLINE_TELEMETRY", default_value_t)]
    telemetry: Telemetry,
    /// How often, at most, connections are counted while they are open; for tests
    #[arg(long, hide = true, env = "SOCKLINE_OPEN_CONNECTIONS_INTERVAL", default_value = "10s", value_parser = duration::parse)]
    open_connections_interval: Duration,
    /// Count connections by client (cgroup) and service port, beside those by service port. Needs
    /// `--telemetry=on`
    #[arg(long, value_name = "BOOL", env = "SOCKLINE_CLIENT_COUNTS", action = ArgAction::Set,
          default_value = "true", value_parser = BoolishValueParser::new())]
    client_counts: bool,
    #[command(flatten)]
    client_metrics: ClientMetricsArgs,
    /// Do not use these kernel features, as on an older kernel; for tests
    #[arg(
        long,
        value_name = "FEATURE",
        value_parser = feature_parser(),
        value_delimiter = ',',
        env = "SOCKLINE_WITHOUT_FEATURES"
    )]
    without_features: Vec<FeatureSet>,
    /// What to log: off, error, warn, info, debug or trace, also by module
    /// (info,sockline::source=debug). `sockline log-level` changes it while the agent runs
    #[arg(long, value_name = "FILTER", env = "SOCKLINE_LOG_LEVEL", default_value = log::DEFAULT_LEVEL)]
    log_level: String,
    /// Format of the log: a line of text or a JSON object for each event
    #[arg(long, value_enum, value_name = "FORMAT", env = "SOCKLINE_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub fn run(args: AgentArgs) -> anyhow::Result<()> {
    let log_level = log::init(&args.log_level, args.log_format)?;
    malloc::use_one_arena();
    let config = Config {
        limits: limits(&args)?,
        source: match args.manifests {
            Some(folder) => Source::Manifests { folder },
            None => Source::Kubernetes { kubeconfig: args.kubeconfig },
        },
        node_name: node_name(args.node_name)?,
        cgroup_root: args.cgroup_root,
        bpf_root: args.bpf_root,
        metrics_bind_address: args.metrics_bind_address,
        admin_socket: args.admin_socket,
        without: args.without_features.into_iter().collect(),
        nested: if args.exclude_nested_namespaces {
            NestedNamespaces::Exclude
        } else {
            NestedNamespaces::Translate
        },
        fail_open_after: args.fail_open_after.filter(|after| !after.is_zero()),
        reconcile_interval: args.reconcile_interval,
        excluded_pods: Policy {
            namespaces: args.exclude_namespaces.into_iter().collect(),
            pods: args.exclude_pod_selector,
        },
        node_port_addresses: NodePortAddresses(args.nodeport_addresses),
        node_ports: if args.nodeports_of_all_nodes {
            NodePortScope::AllNodes
        } else {
            NodePortScope::ThisNode
        },
        telemetry: args.telemetry,
        open_connections_interval: args.open_connections_interval,
        client_counts: if args.client_counts && args.telemetry == Telemetry::On {
            ClientCounting::On
        } else {
            ClientCounting::Off
        },
        client_families: args.client_metrics.into(),
        log_level,
    };
    if config.client_families.are_any() && config.client_counts == ClientCounting::Off {
        anyhow::bail!(
            "--metrics-source-workload and --metrics-dialect=istio need --client-counts=true and --telemetry=on"
        );
    }
    // Blocked until the runtime handles them: the kernel drops signals without a handler that are sent to
    // process 1 of a container.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("blocking SIGTERM and SIGINT")?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %config.node_name, source = %config.source, "starting");
    let started = agent::start(config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        signals.thread_unblock().context("unblocking SIGTERM and SIGINT")?;
        let stopper = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.cancel();
        });
        agent::run(started, stop).await?;
        tracing::info!(
            "stopped; the kernel keeps serving the last known state (`sockline cleanup` removes it)"
        );
        Ok(())
    });
    // Do not wait for a thread that still waits for a response of the helper.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The agent renews its deadline once a second. At this minimum, the programs bypass calls only after ten
/// missed renewals.
const SHORTEST_FAIL_OPEN: Duration = Duration::from_secs(10);

fn fail_open_after(text: &str) -> Result<Duration, String> {
    // An empty variable counts as not set.
    let after = if text.is_empty() { Duration::ZERO } else { duration::parse(text)? };
    if !after.is_zero() && after < SHORTEST_FAIL_OPEN {
        return Err(format!("{text} is shorter than {}s", SHORTEST_FAIL_OPEN.as_secs()));
    }
    Ok(after)
}

fn reconcile_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&interval) {
        return Err(format!("{text} is not between 1s and 24h"));
    }
    Ok(interval)
}

/// The maximum sizes of the maps.
fn limits(args: &AgentArgs) -> anyhow::Result<Limits> {
    let limits = Limits {
        frontends: args.max_frontends,
        slots: args.max_slots,
        backends: args.max_backends,
        affinity: args.max_affinity,
        clients: args.max_clients,
    };
    anyhow::ensure!(
        limits.slots >= limits.backends,
        "--max-slots {} is less than --max-backends {}: each backend needs a slot, and a second one \
         while its service changes",
        limits.slots,
        limits.backends
    );
    Ok(limits)
}

/// The option, otherwise `NODE_NAME` (which the DaemonSet sets from `spec.nodeName`), otherwise the host name in
/// lower case, as the kubelet registers its node.
fn node_name(option: Option<String>) -> anyhow::Result<String> {
    let variable = || std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    let name = match option.or_else(variable) {
        Some(name) => name,
        None => {
            let host =
                nix::unistd::gethostname().context("gethostname (--node-name is not set)")?;
            host.to_string_lossy().to_lowercase()
        }
    };
    anyhow::ensure!(
        !name.is_empty() && name.len() <= 253,
        "--node-name {name:?}: the name of a Node has 1 to 253 characters"
    );
    Ok(name)
}

/// Takes the names of [`FEATURES`].
fn feature_parser() -> impl TypedValueParser<Value = FeatureSet> {
    PossibleValuesParser::new(FEATURES.iter().map(|feature| feature.name)).map(|name| {
        FEATURES.iter().filter(|feature| feature.name == name).map(|feature| feature.flag).collect()
    })
}
