//! The few system calls that aya has no safe wrapper for.
//!
//! Called by the rest of [`super`], by the data plane's links and by [`crate::sock_destroy`]; calls nothing of
//! Sockline. A file for each kind of object: `maps.rs`, `programs.rs`, `links.rs`, `iterators.rs`, and `objects.rs` for
//! what they have in common. `clock.rs` and `namespace.rs` tell the agent what its programs see.
//!
//! Invariants: `unsafe` ends here. An error names the command that failed ([`os_error`] reads its number), and
//! `inject` makes any command fail in a test, because all of them go through one function.
#![expect(unsafe_code, reason = "this is the boundary to the kernel")]

mod clock;
mod error;
#[cfg(test)]
pub mod inject;
mod iterators;
mod links;
mod maps;
mod namespace;
mod objects;
mod programs;

use std::{
    io, mem,
    os::fd::{FromRawFd as _, OwnedFd},
    ptr,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

use self::error::failed;
#[cfg(test)]
pub use self::maps::freeze;
pub use self::{
    clock::monotonic_nanoseconds,
    error::os_error,
    iterators::{link_iterator, load_iterator, run_iterator},
    links::{CgroupLink, link_create, link_detach, link_info, link_update},
    maps::{create_array_of_maps, inner_map_id, map_id, put_map, take_entry},
    namespace::netns_cookie,
    objects::{open_pinned, pin},
    programs::{PROGRAM_NAME, effective_programs, program_info, verify_connect4},
};

pub(super) fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    #[cfg(test)]
    if let Some(errno) = inject::take(command) {
        return Err(failed(command, io::Error::from_raw_os_error(errno)));
    }
    // SAFETY: `attr` is a whole `bpf_attr`, zeroed but for what the command reads; the buffers it
    // points to belong to the caller and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_uint,
            ptr::from_mut(attr),
            size_of_val(attr),
        )
    };
    if result < 0 {
        return Err(failed(command, io::Error::last_os_error()));
    }
    i32::try_from(result).map_err(io::Error::other)
}

pub(super) fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of integers, for which all zeroes is valid and means "not given".
    unsafe { mem::zeroed() }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a file descriptor that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
