//! The table of records, which the socket's cookie indexes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sockline_ebpf::{
    MMAPABLE,
    socket::{SOCKET_SETS, SocketSet},
};

/// Mapped into memory only to be aligned to cache lines; the agent just counts the records.
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
