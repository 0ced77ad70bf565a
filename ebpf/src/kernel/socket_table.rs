//! The table of records, which the socket's cookie indexes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sockline_ebpf::{
    MMAPABLE, partly_counted,
    socket::{SOCKET_SETS, SocketSet},
};

/// Mapped into memory, which also aligns it to cache lines; the agent reads the records and marks some of them.
#[btf_map]
static SOCKETS: Array<SocketSet, { SOCKET_SETS as usize }, MMAPABLE> = Array::new();

/// Where the records of a socket are, if they are in the table.
#[inline(always)]
pub fn set_of(cookie: u64) -> Option<*mut SocketSet> {
    // The table needs compare-and-swap to be shared.
    if !crate::HAS_COMPARE_AND_SWAP {
        return None;
    }
    SOCKETS.get_ptr_mut(cookie as u32 & (SOCKET_SETS - 1))
}

/// The place of a record in the table, for [`sockline_ebpf::partly_counted`].
#[inline(always)]
pub fn place_of(cookie: u64, way: usize) -> u32 {
    partly_counted::place(cookie as u32 & (SOCKET_SETS - 1), way as u32)
}
