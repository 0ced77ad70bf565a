//! What a [`Node`](crate::Node) consists of, which its pods and agents keep alive.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::{Ns, bpffs::BpffsDir, cgroup::NodeCgroup};

/// Settings that every namespace needs before it has devices: addresses are usable at once, and there is no
/// autoconfiguration.
pub(crate) const QUIET_IPV6: [(&str, &str); 4] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Fields are dropped in this order: threads leave the cgroup before it is removed.
pub(crate) struct Shared {
    pub(crate) inside: Ns,
    pub(crate) outside: Ns,
    pub(crate) cgroup: NodeCgroup,
    pub(crate) bpffs: BpffsDir,
    pub(crate) temp: TempDir,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) next_pod: AtomicU32,
    /// Counts agents: only the newest one's handle removes the kernel state.
    pub(crate) agents: AtomicU32,
}

impl Shared {
    pub(crate) fn inside(&self) -> &Ns {
        &self.inside
    }

    pub(crate) fn outside(&self) -> &Ns {
        &self.outside
    }

    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    pub(crate) fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    pub(crate) fn temp(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.temp().join("manifests")
    }

    /// Numbers that name the node's end of each pod's veth pair.
    pub(crate) fn next_pod(&self) -> u32 {
        self.next_pod.fetch_add(1, Ordering::Relaxed)
    }

    /// The address the node sends from, of the same family as `other`.
    pub(crate) fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
    }
}
