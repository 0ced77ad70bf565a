//! Starts the agent, up to its first thread.
//!
//! The order follows the capabilities. The data plane is opened and the helper started with all that the
//! process has. Then the agent drops what it does not need. Only then threads start, so that none has more.

use std::{net::TcpListener, path::PathBuf};

use anyhow::Context as _;
use tracing::Level;

use super::config::{Config, Source};
use crate::{
    admin,
    dataplane::{self, Dataplane, NestedNamespaces, RcuSupport, missing_features},
    helper::{Helper, HelperError},
    mounts,
    privileges::{self, SourceKind},
    source::{self, ClientError},
};

/// An agent that is ready to run.
pub struct Started {
    pub(super) config: Config,
    pub(super) source: Ready,
    pub(super) dataplane: Dataplane,
    pub(super) rcu_support: RcuSupport,
    pub(super) helper: Option<Helper>,
    pub(super) listener: TcpListener,
    pub(super) admin: admin::Server,
}

/// A source that was checked.
pub(super) enum Ready {
    Manifests(PathBuf),
    Kubernetes(Box<kube::Config>),
}

/// Opens everything, and drops every capability that is no longer needed. Call it while the process has one
/// thread.
///
/// # Errors
/// When it cannot start: missing privileges or kernel features, another agent on the same pins, an
/// address in use, an unusable kubeconfig.
pub fn start(config: Config) -> anyhow::Result<Started> {
    must_be_root()?;
    // First, because it can fail: nothing in the kernel is changed then.
    let source = Ready::of(&config.source)?;
    let mut dataplane = open(&config)?;
    let listener = TcpListener::bind(config.metrics_bind_address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| {
            format!("cannot listen on {} (--metrics-bind-address)", config.metrics_bind_address)
        })?;
    let admin = admin::Server::bind(&config.admin_socket)?;
    let helper = start_helper(&config, &dataplane)?;
    if let Some(helper) = helper.clone() {
        dataplane.set_mount_bpffs(move || mount_bpffs(&helper));
    }
    let kind = match &config.source {
        Source::Kubernetes { kubeconfig: None } => SourceKind::Cluster,
        Source::Kubernetes { kubeconfig: Some(_) } | Source::Manifests { .. } => SourceKind::Files,
    };
    privileges::keep_only(&privileges::of_agent(kind))?;
    // With the capabilities that the running agent has.
    let rcu_support = dataplane.rcu().probe();
    if let RcuSupport::Unsupported(why) | RcuSupport::Unknown(why) = &rcu_support {
        tracing::error!(
            "cannot wait for running programs ({why}): freed map entries are not reclaimed, so the maps \
             fill up"
        );
    }
    Ok(Started { config, source, dataplane, rcu_support, helper, listener, admin })
}

impl Ready {
    fn of(source: &Source) -> anyhow::Result<Self> {
        Ok(match source {
            Source::Manifests { folder } => Self::Manifests(folder.clone()),
            Source::Kubernetes { kubeconfig } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let config = runtime.block_on(async {
                    let config = source::config(kubeconfig.as_deref()).await?;
                    // This client is only a check: a client belongs to its runtime.
                    source::kube::check(config.clone())?;
                    Ok::<_, ClientError>(config)
                })?;
                Self::Kubernetes(Box::new(config))
            }
        })
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
        cgroup: mounts::cgroup(config.cgroup_root.as_deref())?,
        bpffs: mounts::bpffs(config.bpf_root.as_deref())?,
        node: config.node_name.clone(),
        limits: config.limits,
        without: config.without,
        node_ports: config.node_ports,
        telemetry: config.telemetry,
        client_counts: config.client_counts,
        fail_open_after: config.fail_open_after,
        nested: config.nested,
    };
    let dataplane = Dataplane::open(&options)?;
    if let Some(bypassed_for) = dataplane.agent_state().bypassed_for() {
        tracing::warn!(
            seconds = bypassed_for.as_secs(),
            "no agent ran for --fail-open-after: all calls are bypassed until the first full sync"
        );
    }
    let features = dataplane.features();
    for (feature, consequence) in missing_features(features.set) {
        let what = feature.what;
        if feature.level == Level::WARN {
            tracing::warn!("this kernel lacks {what}: {consequence}");
        } else {
            tracing::info!("this kernel lacks {what}: {consequence}");
        }
    }
    if features.netns_cookie.is_none() && config.nested == NestedNamespaces::Exclude {
        tracing::warn!(
            "--exclude-nested-namespaces has no effect: this kernel has no SO_NETNS_COOKIE (Linux 5.14)"
        );
    }
    Ok(dataplane)
}

/// Starts the process that keeps the capabilities that the agent drops.
fn start_helper(config: &Config, dataplane: &Dataplane) -> anyhow::Result<Option<Helper>> {
    let method = dataplane.features().termination_method();
    if method.is_none() {
        tracing::warn!(
            "this kernel closes no sockets of other processes (SOCK_DESTROY, bpf_sock_destroy): connected \
             UDP sockets stay with a removed backend"
        );
    }
    let bpffs = mounts::bpffs(config.bpf_root.as_deref())?;
    Ok(Helper::start(&bpffs, method)
        .inspect_err(|error| {
            let causes = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(
                "{error} ({}): connected UDP sockets stay with a removed backend",
                causes.unwrap_or_default()
            );
        })
        .ok())
}

/// Lets the helper mount the BPF file system again. Returns whether it did.
fn mount_bpffs(helper: &Helper) -> bool {
    match helper.mount_bpffs() {
        Ok(()) => true,
        // A helper that does not answer is started again, so this is not logged with every attempt.
        Err(error @ HelperError::Silent(_)) => {
            tracing::warn!("cannot mount the BPF file system: {:#}", anyhow::Error::from(error));
            false
        }
        Err(error) => {
            tracing::debug!("{:#}", anyhow::Error::from(error));
            false
        }
    }
}
