//! Giving up what a process may do and does not need (`capabilities(7)`).
//!
//! A thread's capabilities are its own: this is called before there is a second thread, so that all
//! later ones have no more.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};

use crate::sock_destroy::Method;

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("cannot {action} capabilities")]
    Capabilities { action: &'static str, source: CapsError },
    #[error("cannot rule out new privileges (PR_SET_NO_NEW_PRIVS)")]
    NoNewPrivileges(#[source] Errno),
}

/// What the running agent does with the kernel: make maps and read them (CAP_BPF), make links anew
/// (CAP_NET_ADMIN). Files that belong to others are read with the third, where there are such.
#[must_use]
pub fn of_agent(reads_files: bool) -> CapsHashSet {
    let mut needed = CapsHashSet::from_iter([Capability::CAP_BPF, Capability::CAP_NET_ADMIN]);
    if reads_files {
        needed.insert(Capability::CAP_DAC_READ_SEARCH);
    }
    needed
}

/// What the helper does: enter network namespaces (CAP_SYS_ADMIN) that it knows by their processes
/// (CAP_SYS_PTRACE), close sockets (CAP_NET_ADMIN), tell iterators which (CAP_BPF).
#[must_use]
pub fn of_helper() -> CapsHashSet {
    CapsHashSet::from_iter([
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_BPF,
    ])
}

/// What the helper's supervisor keeps: what the helper needs at its start. With iterators, that is to
/// load them as well (CAP_PERFMON).
#[must_use]
pub fn of_supervisor(method: Option<Method>) -> CapsHashSet {
    let mut needed = of_helper();
    if method == Some(Method::Iterator) {
        needed.insert(Capability::CAP_PERFMON);
    }
    needed
}

/// Gives up everything but these capabilities, for good: also what programs that this process starts
/// could get again.
///
/// # Errors
/// When the kernel does not let go of something.
pub fn keep_only(wanted: &CapsHashSet) -> Result<(), PrivilegeError> {
    let failed = |action| move |source| PrivilegeError::Capabilities { action, source };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed("read"))?;
    let mut kept: CapsHashSet =
        permitted.iter().copied().filter(|capability| wanted.contains(capability)).collect();
    // Whoever starts this may not know CAP_BPF yet, which was a part of CAP_SYS_ADMIN.
    if wanted.contains(&Capability::CAP_BPF)
        && !kept.contains(&Capability::CAP_BPF)
        && permitted.contains(&Capability::CAP_SYS_ADMIN)
    {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("give up ambient"))?;
    // In a container without CAP_SETPCAP the runtime has set the bounds; then new privileges, which
    // they are about, are ruled out below all the same.
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
