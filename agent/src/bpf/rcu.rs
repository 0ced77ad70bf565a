//! Waits until all running programs have ended: an RCU grace period.
//!
//! A membarrier (`MEMBARRIER_CMD_GLOBAL`) would wait as well, but not everywhere: on a kernel booted with
//! `nohz_full=` it is EINVAL, and with one CPU online it returns at once, though a program that was
//! preempted may be half-way (`kernel/sched/membarrier.c`). Putting a map into an array of maps is for
//! this very purpose: the kernel calls `synchronize_rcu()` before it returns (`maybe_wait_bpf_programs` in
//! `kernel/bpf/syscall.c`, Linux 5.0), and programs run inside RCU read-side sections.
//!
//! With one CPU that is right as well. Where readers can be preempted, `synchronize_rcu()` waits for those
//! that were. Where they cannot, a thread that makes a system call on the only CPU proves that no reader is
//! under way, and it returns at once (`rcu_blocking_is_gp` in `kernel/rcu/tree.c`).

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use aya::maps::MapData;

use crate::bpf::{error::BpfError, kinds::create, syscall};

/// The name of both maps, as `bpftool map` shows it.
const NAME: &str = "SOCKLINE_RCU";

/// Waits for RCU grace periods, from any thread: a private array of maps that no program uses.
#[derive(Debug, Clone)]
pub struct Rcu {
    maps: Arc<Maps>,
}

#[derive(Debug)]
struct Maps {
    array: OwnedFd,
    inner: MapData,
}

/// Whether the agent can wait for running programs on this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RcuSupport {
    Supported,
    /// Freed indices can never be reused.
    Unsupported(String),
    /// A transient error, such as ENOMEM: the next attempt may succeed.
    Unknown(String),
}

impl Rcu {
    pub fn new() -> Result<Self, BpfError> {
        let inner = create::array::<u32>(NAME, 1, 0)?;
        let array = syscall::create_array_of_maps(NAME, 1, inner.fd().as_fd())
            .map_err(|error| BpfError::io(format!("create map `{NAME}`"), error))?;
        Ok(Self { maps: Arc::new(Maps { array, inner }) })
    }

    /// Waits until every program that runs at the call has ended, which takes some 20 ms.
    pub fn synchronize_rcu(&self) -> Result<(), BpfError> {
        let Maps { array, inner } = &*self.maps;
        syscall::put_map(array.as_fd(), 0, inner.fd().as_fd())
            .map_err(|error| BpfError::io("wait for running programs", error))
    }

    #[must_use]
    pub fn probe(&self) -> RcuSupport {
        RcuSupport::of(self.synchronize_rcu().as_ref().copied())
    }
}

impl RcuSupport {
    /// Derived from the result of a wait.
    #[must_use]
    pub fn of(waited: Result<(), &BpfError>) -> Self {
        match waited {
            Ok(()) => Self::Supported,
            Err(BpfError::Io { source, .. }) if is_transient(syscall::os_error(source)) => {
                Self::Unknown(source.to_string())
            }
            Err(BpfError::Io { source, .. }) => Self::Unsupported(source.to_string()),
            Err(other) => Self::Unsupported(other.to_string()),
        }
    }
}

const fn is_transient(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya_obj::generated::bpf_cmd;

    use super::*;
    use crate::bpf::syscall::inject;

    #[test]
    fn a_probe_that_the_kernel_has_no_memory_for_is_no_answer_and_the_next_one_is() {
        let programs = Rcu::new().unwrap();
        inject::fail_once(bpf_cmd::BPF_MAP_UPDATE_ELEM, 0, libc::ENOMEM);
        let RcuSupport::Unknown(why) = programs.probe() else { panic!("it was an answer") };
        assert!(why.starts_with("BPF_MAP_UPDATE_ELEM: "), "{why}");
        assert_eq!(programs.probe(), RcuSupport::Supported);
    }

    #[test]
    fn a_transient_error_does_not_mean_that_waiting_is_unsupported() {
        let failed = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            RcuSupport::of(Err(&BpfError::io("wait for running programs", error)))
        };
        assert!(matches!(failed(libc::ENOMEM), RcuSupport::Unknown(_)));
        assert!(matches!(failed(libc::EPERM), RcuSupport::Unsupported(_)));
        assert!(matches!(failed(libc::EINVAL), RcuSupport::Unsupported(_)));
        assert_eq!(RcuSupport::of(Ok(())), RcuSupport::Supported);
    }
}
