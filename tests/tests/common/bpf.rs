//! Commands of `bpf(2)` that have no safe wrapper.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const MAP_DELETE_ELEM: libc::c_long = 3;
const OBJ_GET: libc::c_long = 7;
const MAP_FREEZE: libc::c_long = 22;
const LINK_DETACH: libc::c_long = 34;

/// Removes the map at an index from an array of maps.
pub fn delete_index(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let key = (&raw const index) as u64;
    // `struct { __u32 map_fd; __aligned_u64 key; }`
    bpf(MAP_DELETE_ELEM, &[fd(outer), key]).map(drop)
}

/// Opens a pinned object of any kind.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // `struct { __aligned_u64 pathname; __u32 bpf_fd; __u32 file_flags; }`
    let opened = bpf(OBJ_GET, &[path.as_ptr() as u64, 0])?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as i32) })
}

/// Detaches a link's program from its hook.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // `struct { __u32 link_fd; }`
    bpf(LINK_DETACH, &[fd(link)]).map(drop)
}

/// Freezes a map: no system call can write it any more (Linux 5.2).
pub fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // `struct { __u32 map_fd; }`
    bpf(MAP_FREEZE, &[fd(map)]).map(drop)
}

/// A descriptor in the lower half of a word, which comes first in memory.
fn fd(fd: BorrowedFd<'_>) -> u64 {
    u64::from(fd.as_raw_fd().cast_unsigned()).to_le()
}

fn bpf(command: libc::c_long, attr: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr) as libc::c_long)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
