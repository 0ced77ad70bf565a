//! What is remembered about sockets: `remember`, `recall`, `forget`, and `release` at the end.
//!
//! A translation lies in a set-associative table that the socket's cookie indexes: finding and
//! making a record are a few memory accesses, where socket storage costs an allocation (660 ns
//! measured). A socket that finds its set full, or whose end no hook will see, has its records in
//! socket storage, and is noted (see `noted`). Either way a record lives exactly as long as its socket.
//!
//! Within a socket, a record is found by the service that it is for, or by the backend that an
//! answer comes from. Both are unique: the latest translation wins.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::{Array, SkStorage},
    helpers::generated::{bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    macros::btf_map,
    programs::{SockAddrContext, SockContext},
};
use sockline_ebpf::{
    MMAPABLE,
    address::Address,
    frontend::TCP,
    socket::{CLAIMED, SOCKET_SETS, STORED, SocketRecord, SocketSet, StoredRecords, WAYS},
};

use super::{config, helpers, noted};

/// Mapped into memory only to be aligned to cache lines; the agent just counts the records.
#[btf_map]
static SOCKETS: Array<SocketSet, { SOCKET_SETS as usize }, MMAPABLE> = Array::new();

#[btf_map]
static STORAGE: SkStorage<StoredRecords> = SkStorage::new();

/// What a translation is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `connect()` of a socket that cannot have any record yet.
    FirstConnect,
    Connect,
    /// A datagram of a socket that has another peer, or none.
    Send,
}

/// Keeps a translation for as long as the socket lives. Returns whether it could.
#[inline(always)]
pub fn remember(
    ctx: &SockAddrContext,
    protocol: u8,
    purpose: Purpose,
    record: &SocketRecord,
) -> bool {
    if protocol == TCP
        && let Some(connection) = mptcp_connection(ctx)
    {
        return remember_in_storage(connection, record);
    }
    let cookie = helpers::socket_cookie(ctx);
    if remember_in_table(cookie, protocol, purpose, record) {
        if purpose == Purpose::Connect {
            noted::forget(cookie);
        }
        return true;
    }
    if !remember_in_storage(socket(ctx), record) {
        return false;
    }
    // The note is to end with the socket as well.
    if purpose != Purpose::Send && is_released_with_a_hook() {
        noted::note(cookie, record);
    }
    true
}

#[inline(always)]
fn remember_in_table(cookie: u64, protocol: u8, purpose: Purpose, record: &SocketRecord) -> bool {
    let Some(set) = set_of(cookie) else { return false };
    if purpose != Purpose::FirstConnect && replace_own(set, cookie, protocol, record) {
        return true;
    }
    if is_released_with_a_hook() {
        for way in 0..WAYS {
            let place = Place::in_table(set, way);
            if place.claim() {
                place.fill(record, cookie);
                return true;
            }
        }
    }
    false
}

/// Writes a record in place of those of the same socket that it excludes.
#[inline(always)]
fn replace_own(set: *mut SocketSet, cookie: u64, protocol: u8, record: &SocketRecord) -> bool {
    let mut done = false;
    for way in 0..WAYS {
        let place = Place::in_table(set, way);
        // A TCP socket has one peer at a time.
        if place.holder() == cookie && (protocol == TCP || place.concerns(record)) {
            if done {
                place.free();
            } else {
                place.fill(record, cookie);
                done = true;
            }
        }
    }
    done
}

/// The backend that the socket already has for a service address and port (network byte order), as it
/// was dialled: its id and generation.
#[inline(always)]
pub fn recall_backend(ctx: &SockAddrContext, address: &Address, port: u16) -> Option<(u32, u32)> {
    let found = find(ctx, |kept| kept.service_port == port && kept.service_address == *address)?;
    Some((found.backend, found.generation))
}

/// The service address and port (network byte order) that the socket asked for when it got this
/// backend's.
#[inline(always)]
pub fn recall_service(
    ctx: &SockAddrContext,
    address: &Address,
    port: u16,
) -> Option<(Address, u16)> {
    let found = find(ctx, |kept| kept.backend_port == port && kept.backend_address == *address)?;
    Some((found.service_address, found.service_port))
}

/// Forgets that the socket got this address as a backend: it dialled it directly. An exact answer
/// to `getpeername` needs it, and nobody is to close the socket when that backend ends.
#[inline(always)]
pub fn forget(ctx: &SockAddrContext, address: &Address, port: u16) {
    let dialled =
        |kept: &SocketRecord| kept.backend_port == port && kept.backend_address == *address;
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let place = Place::in_table(set, way);
            if place.holder() == cookie && dialled(place.record()) {
                place.free();
            }
        }
    }
    if let Some(stored) = stored(ctx) {
        for index in 0..STORED {
            let place = Place::in_storage(stored, index);
            if place.holder() != FREE && dialled(place.record()) {
                place.free();
                noted::forget(cookie);
            }
        }
    }
}

/// Frees the records of a socket that is being closed.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let place = Place::in_table(set, way);
            if place.holder() == cookie {
                place.free();
            }
        }
    }
    noted::forget(cookie);
}

#[inline(always)]
fn find(
    ctx: &SockAddrContext,
    wanted: impl Fn(&SocketRecord) -> bool,
) -> Option<&'static SocketRecord> {
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let place = Place::in_table(set, way);
            if place.holder() == cookie && wanted(place.record()) {
                return Some(place.record());
            }
        }
    }
    let stored = stored(ctx)?;
    for index in 0..STORED {
        let place = Place::in_storage(stored, index);
        if place.holder() != FREE && wanted(place.record()) {
            return Some(place.record());
        }
    }
    None
}

#[inline(always)]
fn set_of(cookie: u64) -> Option<*mut SocketSet> {
    // The table needs compare-and-swap to be shared.
    if !crate::HAS_COMPARE_AND_SWAP {
        return None;
    }
    SOCKETS.get_ptr_mut(cookie as u32 & (SOCKET_SETS - 1))
}

/// The holder of a record that is in nobody's use.
const FREE: u64 = 0;

/// A record and the word that says whose it is.
#[derive(Clone, Copy)]
struct Place {
    holder: *mut u64,
    record: *mut SocketRecord,
}

impl Place {
    #[inline(always)]
    fn in_table(set: *mut SocketSet, way: usize) -> Self {
        // SAFETY: `way` is below WAYS.
        unsafe {
            Self {
                holder: (&raw mut (*set).cookies).cast::<u64>().add(way),
                record: (&raw mut (*set).records).cast::<SocketRecord>().add(way),
            }
        }
    }

    #[inline(always)]
    fn in_storage(stored: *mut StoredRecords, index: usize) -> Self {
        // SAFETY: `index` is below STORED.
        unsafe {
            Self {
                holder: (&raw mut (*stored).used).cast::<u64>().add(index),
                record: (&raw mut (*stored).records).cast::<SocketRecord>().add(index),
            }
        }
    }

    #[inline(always)]
    fn holder(self) -> u64 {
        // SAFETY: a live map value; other CPUs write this word, hence volatile.
        unsafe { ptr::read_volatile(self.holder) }
    }

    /// Only its socket's own calls write a record that is in use, so it may be read.
    #[inline(always)]
    fn record(self) -> &'static SocketRecord {
        // SAFETY: map memory stays until the program ends.
        unsafe { &*self.record }
    }

    /// Whether this and another record of one socket exclude each other.
    #[inline(always)]
    fn concerns(self, record: &SocketRecord) -> bool {
        let kept = self.record();
        (kept.service_port == record.service_port && kept.service_address == record.service_address)
            || (kept.backend_port == record.backend_port
                && kept.backend_address == record.backend_address)
    }

    #[inline(always)]
    fn claim(self) -> bool {
        // SAFETY: a live map value.
        self.holder() == FREE && unsafe { helpers::replace(self.holder, FREE, CLAIMED) }
    }

    /// Writes a record that this call owns: nobody finds it until all of it is there.
    #[inline(always)]
    fn fill(self, record: &SocketRecord, holder: u64) {
        // SAFETY: a live map value.
        unsafe {
            ptr::write_volatile(self.holder, CLAIMED);
            *self.record = *record;
            helpers::publish(self.holder, holder);
        }
    }

    #[inline(always)]
    fn free(self) {
        // SAFETY: a live map value.
        unsafe { ptr::write_volatile(self.holder, FREE) };
    }
}

/// The kernel's own sockets (NFS, CIFS) are closed without `sock_release`. Kernel threads are in
/// the root cgroup, so whoever is there gets socket storage, which needs no hook to be freed.
#[inline(always)]
fn is_released_with_a_hook() -> bool {
    const ROOT: u64 = 1;
    helpers::current_cgroup() != ROOT
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// The MPTCP connection that a TCP socket is a subflow of. `connect()` on an MPTCP socket is seen
/// with its first subflow, which the kernel made and closes by itself; `getpeername()` is seen with
/// the connection's own socket. So what is remembered belongs to that one.
#[inline(always)]
fn mptcp_connection(ctx: &SockAddrContext) -> Option<*mut c_void> {
    if !config::has_mptcp_sock() {
        return None;
    }
    let socket = socket(ctx);
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket that the kernel gave us.
    let connection = unsafe { bpf_skc_to_mptcp_sock(socket) }.cast::<c_void>();
    (!connection.is_null()).then_some(connection)
}

#[inline(always)]
fn stored(ctx: &SockAddrContext) -> Option<*mut StoredRecords> {
    storage_of(mptcp_connection(ctx).unwrap_or_else(|| socket(ctx)), 0)
}

#[inline(always)]
fn storage_of(socket: *mut c_void, flags: u64) -> Option<*mut StoredRecords> {
    if socket.is_null() {
        return None;
    }
    let map = (&raw const STORAGE).cast_mut().cast();
    // SAFETY: a socket that the kernel gave us, and a socket storage map.
    let stored = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), flags) };
    (!stored.is_null()).then_some(stored.cast())
}

#[inline(always)]
fn remember_in_storage(socket: *mut c_void, record: &SocketRecord) -> bool {
    const USED: u64 = 1;
    let Some(stored) = storage_of(socket, BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        return false;
    };
    let mut best = 0;
    let mut oldest = u64::MAX;
    for index in 0..STORED {
        let place = Place::in_storage(stored, index);
        if place.holder() != FREE && place.concerns(record) {
            place.free();
        }
        let since = if place.holder() == FREE { 0 } else { place.record().since };
        if since < oldest {
            oldest = since;
            best = index;
        }
    }
    Place::in_storage(stored, best & (STORED - 1)).fill(record, USED);
    true
}
