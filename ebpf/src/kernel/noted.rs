//! Connected sockets whose record is in socket storage, noted by their cookie.
//!
//! The agent closes sockets whose backend is gone, and socket storage does not let itself be searched:
//! `sock_diag(7)` shows that of TCP alone (`inet_sk_diag_fill`), and the iterator over it takes a kernel
//! that describes its types. A note ends with the connection or with its socket, as the record does.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    NO_PREALLOC,
    counters::Fault,
    socket::{NOTED_SOCKETS, SocketRecord},
};

use super::counters;

/// One word: 1 once there was a note. As long as it is 0, reading it is all that sockets pay; then they
/// pay 100 ns at their end.
#[btf_map]
static NOTED_ANY: Array<u32, 1> = Array::new();

/// What each connected to, by the sockets' cookies.
#[btf_map]
static NOTED: HashMap<u64, SocketRecord, { NOTED_SOCKETS as usize }, NO_PREALLOC> = HashMap::new();

/// Notes what a socket connects to, in place of what it was connected to.
#[inline(always)]
pub fn note(cookie: u64, record: &SocketRecord) {
    if let Some(any) = NOTED_ANY.get_ptr_mut(0) {
        // SAFETY: a live map value; whoever writes it writes the same.
        unsafe { any.write_volatile(1) };
    }
    if NOTED.insert(cookie, record, 0).is_err() {
        // Rather none than an old one.
        let _ = NOTED.remove(cookie);
        counters::fault(Fault::NotNoted);
    }
}

/// Forgets a socket.
#[inline(always)]
pub fn forget(cookie: u64) {
    if NOTED_ANY.get(0).is_some_and(|&any| any != 0) {
        let _ = NOTED.remove(cookie);
    }
}
