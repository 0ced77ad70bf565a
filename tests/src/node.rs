//! A private node: the host's network namespace, a cgroup, a bpffs folder, and pods.

use std::{
    fs::{self, File},
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU32},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::{
    Agent, AgentOptions, Ns, Pod, PodCgroup,
    bpffs::BpffsDir,
    cgroup,
    cgroup::NodeCgroup,
    iproute,
    node_parts::{QUIET_IPV6, Shared},
    owner, requirements,
};

/// The addresses of `node-a` in the recorded fixtures.
const ADDRESSES: [&str; 2] = ["192.0.2.10", "2001:db8::a"];

/// A private node. Dereferences to its host network namespace, inside its cgroup: threads there correspond to
/// a pod with `hostNetwork: true` on a real node.
///
/// Pods and agents keep their node alive; it is removed when the last of them is dropped.
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// A node with the addresses 192.0.2.10 and 2001:db8::a.
    ///
    /// # Errors When the machine lacks something; the message names it and the command that fixes it.
    pub fn new() -> Result<Self> {
        let addresses =
            ADDRESSES.map(|address| address.parse().expect("the constants above are addresses"));
        Self::with_addresses(&addresses)
    }

    /// A node with these addresses; the first of each family is the one it sends from.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_addresses(addresses: &[IpAddr]) -> Result<Self> {
        requirements::check()?;
        let number = owner::next_node();
        owner::remove_stale_folders(&std::env::temp_dir());
        let temp = tempfile::Builder::new()
            .prefix(&format!("{}-{number}-", owner::process_name()))
            .tempdir()
            .context("making a temporary folder")?;
        fs::create_dir(temp.path().join("manifests")).context("making the manifests folder")?;
        let bpffs = BpffsDir::create(number)?;
        let cgroup = NodeCgroup::create(number)?;
        let outside = Ns::unshared("node", None)?;
        let path = cgroup.path().to_path_buf();
        let inside = Ns::within("node", &outside, move || cgroup::join_thread(&path))?;

        iproute::sysctl(&outside, &QUIET_IPV6)?;
        iproute::sysctl(&outside, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let mut lines = String::from("link set lo up\n");
        for address in addresses {
            lines += &match address {
                IpAddr::V4(v4) => format!("addr add {v4}/32 dev lo\n"),
                IpAddr::V6(v6) => format!("addr add {v6}/128 dev lo nodad\n"),
            };
        }
        iproute::batch(&outside, &lines)?;
        let shared = Shared {
            inside,
            outside,
            cgroup,
            bpffs,
            temp,
            addresses: addresses.to_vec(),
            next_pod: AtomicU32::new(0),
            agents: AtomicU32::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a pod with these addresses (any number of either family).
    ///
    /// # Errors
    /// When a step of it fails; the message says which.
    pub fn pod(&self, name: &str, addresses: &[IpAddr]) -> Result<Pod> {
        Pod::create(&self.shared, name, addresses).with_context(|| format!("making the pod {name}"))
    }

    /// Makes the cgroup of a pod with this uid, as its kubelet would.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod_cgroup(&self, uid: &str) -> Result<PodCgroup> {
        PodCgroup::create(self.cgroup(), uid)
    }

    /// Starts the built agent on this node and waits until its first sync is in the kernel.
    ///
    /// # Errors
    /// When there is no binary, or it does not become ready; the message carries its log.
    pub fn agent(&self, options: &AgentOptions) -> Result<Agent> {
        Agent::start(&self.shared, options)
    }

    /// Starts the agent without waiting, so that a test can kill it during its start.
    ///
    /// # Errors
    /// When there is no binary, or no process can be started.
    pub fn spawn_agent(&self, options: &AgentOptions) -> Result<Agent> {
        Agent::spawn(&self.shared, options)
    }

    /// The host's network namespace outside of the node's cgroup, for the agent and for calls that must not
    /// be translated.
    pub fn outside(&self) -> &Ns {
        &self.shared.outside
    }

    /// The machine's initial network namespace, inside the node's cgroup: threads there are processes of the
    /// host also for a kernel without network namespace cookies.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn initial_namespace(&self) -> Result<Ns> {
        let threads = fs::read_to_string("/proc/2/comm").unwrap_or_default();
        // Kernel threads are in it, and process 2 starts all of them.
        ensure!(threads == "kthreadd\n", "process 2 is not the kernel's, but {threads:?}");
        let namespace = File::open("/proc/2/ns/net").context("opening the initial namespace")?;
        Ns::within("initial", &self.shared.inside, move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the initial namespace")
        })
    }

    /// The addresses of the node itself.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.shared.addresses
    }

    /// The node's cgroup v2 folder: what the agent attaches to.
    pub fn cgroup(&self) -> &Path {
        self.shared.cgroup()
    }

    /// The node's folder in bpffs.
    pub fn bpffs(&self) -> &Path {
        self.shared.bpffs()
    }

    /// The folder the agent reads manifests from, empty at first.
    pub fn manifests(&self) -> PathBuf {
        self.shared.manifests()
    }

    /// A folder for anything else, removed with the node.
    pub fn temp(&self) -> &Path {
        self.shared.temp()
    }
}

impl Deref for Node {
    type Target = Ns;

    fn deref(&self) -> &Ns {
        &self.shared.inside
    }
}
