//! What comes before the agent runs.
//!
//! The order is that of the rights: the kernel's side is opened and the helper started with all that
//! the process was given, then what the agent does not need is given up, and only then there are
//! threads, which have no more than that.

use std::{net::TcpListener, path::PathBuf};

use anyhow::Context as _;

use super::{Config, Source};
use crate::{
    admin,
    dataplane::{self, CanWait, Dataplane, NestedNamespaces},
    helper::{Helper, HelperError},
    mounts, privileges,
    source::{self, SourceError},
};

/// An agent that can run.
pub struct Started {
    pub(super) config: Config,
    pub(super) source: Ready,
    pub(super) dataplane: Dataplane,
    pub(super) can_wait: CanWait,
    pub(super) helper: Option<Helper>,
    pub(super) listener: TcpListener,
    pub(super) admin: admin::Server,
}

/// A source that can be read.
pub(super) enum Ready {
    Manifests(PathBuf),
    Kubernetes(Box<kube::Config>),
}

/// Opens everything, and gives up every capability that is not needed any more. To be called while
/// the process has one thread.
///
/// # Errors
/// When it cannot start: missing privileges or kernel features, another agent on the same pins, an
/// address in use, an unusable kubeconfig.
pub fn start(config: Config) -> anyhow::Result<Started> {
    must_be_root()?;
    // Before the kernel is touched, because it can fail.
    let source = Ready::of(&config.source)?;
    let mut dataplane = open(&config)?;
    let listener = TcpListener::bind(config.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
    let admin = admin::Server::bind(&config.admin_socket)?;
    let helper = start_helper(&config, &dataplane)?;
    if let Some(helper) = helper.clone() {
        dataplane.set_mount_bpffs(move || mount_bpffs(&helper));
    }
    let reads_files = !matches!(&config.source, Source::Kubernetes { kubeconfig: None });
    privileges::keep_only(&privileges::of_agent(reads_files))?;
    // With the rights that it will have.
    let can_wait = dataplane.running_programs().probe();
    if let CanWait::No(why) | CanWait::Unknown(why) = &can_wait {
        tracing::error!(
            "cannot wait for running programs ({why}): what is not used any more in the maps is not given \
             out again, until they are full"
        );
    }
    Ok(Started { config, source, dataplane, can_wait, helper, listener, admin })
}

impl Ready {
    fn of(source: &Source) -> anyhow::Result<Self> {
        Ok(match source {
            Source::Manifests(folder) => Self::Manifests(folder.clone()),
            Source::Kubernetes { kubeconfig } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let config = runtime.block_on(async {
                    let config = source::config(kubeconfig.as_deref()).await?;
                    // The one that is used is made later: it belongs to its runtime.
                    source::kube::check(config.clone())?;
                    Ok::<_, SourceError>(config)
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
        cgroup: mounts::cgroup(config.cgroup.as_deref())?,
        bpffs: mounts::bpffs(config.bpffs.as_deref())?,
        node: config.node_name.clone(),
        limits: config.limits,
        without: config.without.clone(),
        node_ports: config.node_ports,
        fail_open_after: config.fail_open_after,
        nested: config.nested,
    };
    let dataplane = Dataplane::open(&options)?;
    if let Some(bypassed_for) = dataplane.agent_state().bypassed_for() {
        tracing::warn!(
            seconds = bypassed_for.as_secs(),
            "no agent was here for so long that all calls are bypassed (--fail-open-after); they are \
             until the first full sync"
        );
    }
    let features = dataplane.features();
    if !features.set_retval {
        tracing::warn!("this kernel has no bpf_set_retval (Linux 5.18): refusals are EPERM");
    }
    if !features.compare_and_swap {
        tracing::info!(
            "this kernel's programs cannot compare and swap (Linux 5.12): sockets are remembered in \
             a hash, which costs more per connection"
        );
    }
    if features.kernel_sockets.is_none() {
        tracing::info!(
            "this kernel does not let programs tell its own sockets (kernel BTF, CAP_PERFMON): TCP \
             sockets are remembered in socket storage, which costs more per connection and cannot be \
             searched, so that sockline.dev/close-on-removal closes none"
        );
    }
    if features.netns_cookie.is_none() {
        tracing::info!(
            "this kernel has no SO_NETNS_COOKIE (Linux 5.14): loopback NodePorts are served to the \
             initial network namespace"
        );
    }
    if features.netns_cookie.is_none() && config.nested == NestedNamespaces::Exclude {
        tracing::warn!(
            "--exclude-nested-namespaces has no effect: this kernel has no SO_NETNS_COOKIE (Linux 5.14)"
        );
    }
    if !features.mptcp_sock {
        tracing::info!(
            "this kernel has no bpf_skc_to_mptcp_sock (Linux 6.0 with BTF): the peer name of MPTCP \
             sockets is the backend's"
        );
    }
    Ok(dataplane)
}

/// Starts the process that keeps what the agent gives up.
fn start_helper(config: &Config, dataplane: &Dataplane) -> anyhow::Result<Option<Helper>> {
    let method = dataplane.features().closing();
    if method.is_none() {
        tracing::warn!(
            "this kernel closes no sockets for others (SOCK_DESTROY, bpf_sock_destroy): connected UDP \
             sockets stay with a backend that is gone"
        );
    }
    let bpffs = mounts::bpffs(config.bpffs.as_deref())?;
    Ok(Helper::start(&bpffs, method)
        .inspect_err(|error| {
            let causes = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(
                "{error} ({}): connected UDP sockets stay with a backend that is gone",
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
