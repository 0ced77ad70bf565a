//! Drops the capabilities that a process does not need (`capabilities(7)`).
//!
//! Capabilities belong to a thread. Each process drops them before it starts a second thread, so that all threads have
//! the same ones.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};

use crate::sock_destroy::Method;

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("cannot {action} capabilities")]
    Capabilities { action: &'static str, source: CapsError },
    #[error("cannot call prctl(PR_SET_NO_NEW_PRIVS)")]
    NoNewPrivileges(#[source] Errno),
}

/// What the agent reads its objects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Manifests, or the API server of a kubeconfig.
    Files,
    /// The API server of the cluster that this process runs in.
    Cluster,
}

/// The capabilities of the running agent: CAP_BPF to create and read maps, CAP_NET_ADMIN to attach links again, and
/// CAP_DAC_READ_SEARCH if its source is files that other users may own.
#[must_use]
pub fn of_agent(source: SourceKind) -> CapsHashSet {
    let mut needed = CapsHashSet::from_iter([Capability::CAP_BPF, Capability::CAP_NET_ADMIN]);
    match source {
        SourceKind::Files => {
            needed.insert(Capability::CAP_DAC_READ_SEARCH);
        }
        SourceKind::Cluster => {}
    }
    needed
}

/// The capabilities of the helper: CAP_SYS_ADMIN to enter network namespaces, CAP_SYS_PTRACE to find those of
/// processes, CAP_NET_ADMIN to close sockets, CAP_BPF to write the map of the socket iterators.
#[must_use]
pub fn of_helper() -> CapsHashSet {
    CapsHashSet::from_iter([
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_BPF,
    ])
}

/// The capabilities of the helper's supervisor: those that the helper needs at its start, which include CAP_PERFMON
/// to load iterators.
#[must_use]
pub fn of_supervisor(method: Option<Method>) -> CapsHashSet {
    let mut needed = of_helper();
    if method == Some(Method::Iterator) {
        needed.insert(Capability::CAP_PERFMON);
    }
    needed
}

/// Drops all other capabilities permanently, also for programs that this process starts.
///
/// # Errors
/// When a capability cannot be dropped.
pub fn keep_only(wanted: &CapsHashSet) -> Result<(), PrivilegeError> {
    let failed = |action| move |source| PrivilegeError::Capabilities { action, source };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed("read"))?;
    let mut kept: CapsHashSet =
        permitted.iter().copied().filter(|capability| wanted.contains(capability)).collect();
    // An old container runtime may not know CAP_BPF, which was a part of CAP_SYS_ADMIN before Linux 5.8.
    if wanted.contains(&Capability::CAP_BPF)
        && !kept.contains(&Capability::CAP_BPF)
        && permitted.contains(&Capability::CAP_SYS_ADMIN)
    {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("give up ambient"))?;
    // In a container without CAP_SETPCAP the runtime has set the bounding set. PR_SET_NO_NEW_PRIVS below has the
    // same effect in any case.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for capability in caps::runtime::thread_all_supported() {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .map_err(failed("give up the bounds of"))?;
            }
        }
    }
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed("give up inheritable"))?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed("give up effective"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed("give up permitted"))
}
