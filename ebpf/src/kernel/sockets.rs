//! What is remembered about sockets: `remember`, `recall`, `forget`, and `release` at the end.
//!
//! A translation lies in a set-associative table that the socket's cookie indexes: finding and
//! making a record are a few memory accesses, where socket storage costs an allocation (660 ns
//! measured). A socket that finds its set full, or whose end no hook will see, has its records in
//! socket storage. Either way a record lives exactly as long as its socket.
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
    frontend::{FrontendKey, TCP},
    socket::{CLAIMED, SOCKET_SETS, STORED, SocketRecord, SocketSet, StoredRecords, WAYS},
};

use super::{config, helpers};

/// Mapped into memory only to be aligned to cache lines; the agent just counts the records.
#[btf_map]
static SOCKETS: Array<SocketSet, { SOCKET_SETS as usize }, MMAPABLE> = Array::new();

#[btf_map]
static STORAGE: SkStorage<StoredRecords> = SkStorage::new();

/// Keeps a translation for as long as the socket lives. Returns whether it could.
#[inline(always)]
pub fn remember(ctx: &SockAddrContext, protocol: u8, mut record: SocketRecord) -> bool {
    let cookie = helpers::socket_cookie(ctx);
    record.cookie = cookie;
    if protocol == TCP
        && let Some(connection) = mptcp_connection(ctx)
    {
        return remember_in_storage(connection, &record);
    }
    if let Some(set) = set_of(cookie) {
        let mut done = false;
        for way in 0..WAYS {
            let kept = way_of(set, way);
            if !is(kept, cookie) {
                continue;
            }
            // A TCP socket has one peer at a time.
            if protocol == TCP || concerns(kept, &record) {
                if done {
                    free(kept);
                } else {
                    write(kept, &record);
                    done = true;
                }
            }
        }
        if done {
            return true;
        }
        if is_released_with_a_hook() {
            for way in 0..WAYS {
                let free = way_of(set, way);
                if claim(free) {
                    write(free, &record);
                    return true;
                }
            }
        }
    }
    remember_in_storage(socket(ctx), &record)
}

/// The backend that the socket already has for a service: its id and generation.
#[inline(always)]
pub fn recall_backend(ctx: &SockAddrContext, service: &FrontendKey) -> Option<(u32, u32)> {
    let found = find(ctx, |kept| {
        kept.service_port == service.port && kept.service_address == service.address
    })?;
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
/// to `getpeername` needs it.
#[inline(always)]
pub fn forget(ctx: &SockAddrContext, address: &Address, port: u16) {
    let dialled =
        |kept: &SocketRecord| kept.backend_port == port && kept.backend_address == *address;
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let kept = way_of(set, way);
            // SAFETY: a live record.
            if is(kept, cookie) && dialled(unsafe { &*kept }) {
                free(kept);
            }
        }
    }
    if let Some(stored) = stored(ctx) {
        for index in 0..STORED {
            let kept = stored_at(stored, index);
            // SAFETY: a live record.
            if dialled(unsafe { &*kept }) {
                free(kept);
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
            let kept = way_of(set, way);
            if is(kept, cookie) {
                free(kept);
            }
        }
    }
}

#[inline(always)]
fn find(
    ctx: &SockAddrContext,
    wanted: impl Fn(&SocketRecord) -> bool,
) -> Option<&'static SocketRecord> {
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let kept = way_of(set, way);
            // SAFETY: a live record.
            if is(kept, cookie) && wanted(unsafe { &*kept }) {
                // SAFETY: array memory stays until the program ends.
                return Some(unsafe { &*kept });
            }
        }
    }
    let stored = stored(ctx)?;
    for index in 0..STORED {
        let kept = stored_at(stored, index);
        // SAFETY: storage stays until the program ends, its socket being in use.
        let kept = unsafe { &*kept };
        if kept.cookie != 0 && wanted(kept) {
            return Some(kept);
        }
    }
    None
}

#[inline(always)]
fn set_of(cookie: u64) -> Option<*mut SocketSet> {
    SOCKETS.get_ptr_mut(cookie as u32 & (SOCKET_SETS - 1))
}

#[inline(always)]
fn way_of(set: *mut SocketSet, way: usize) -> *mut SocketRecord {
    // SAFETY: `way` is below WAYS.
    unsafe { (&raw mut (*set).records).cast::<SocketRecord>().add(way) }
}

#[inline(always)]
fn stored_at(stored: *mut StoredRecords, index: usize) -> *mut SocketRecord {
    // SAFETY: `index` is below STORED.
    unsafe { (&raw mut (*stored).records).cast::<SocketRecord>().add(index) }
}

#[inline(always)]
fn is(record: *mut SocketRecord, cookie: u64) -> bool {
    // SAFETY: a live record; other CPUs write this word, hence volatile.
    unsafe { ptr::read_volatile(&raw const (*record).cookie) == cookie }
}

/// Whether two records of one socket exclude each other.
#[inline(always)]
fn concerns(kept: *mut SocketRecord, record: &SocketRecord) -> bool {
    // SAFETY: a live record.
    let kept = unsafe { &*kept };
    (kept.service_port == record.service_port && kept.service_address == record.service_address)
        || (kept.backend_port == record.backend_port
            && kept.backend_address == record.backend_address)
}

#[inline(always)]
fn claim(record: *mut SocketRecord) -> bool {
    // SAFETY: a live record.
    is(record, 0) && unsafe { helpers::replace(&raw mut (*record).cookie, 0, CLAIMED) }
}

/// Fills a record that this call owns: nobody finds it by its cookie until all of it is there.
#[inline(always)]
fn write(to: *mut SocketRecord, from: &SocketRecord) {
    // SAFETY: a live record.
    unsafe {
        ptr::write_volatile(&raw mut (*to).cookie, CLAIMED);
        (*to).service_address = from.service_address;
        (*to).backend_address = from.backend_address;
        (*to).service_port = from.service_port;
        (*to).backend_port = from.backend_port;
        (*to).service = from.service;
        (*to).backend = from.backend;
        (*to).generation = from.generation;
        (*to).since = from.since;
        helpers::publish(&raw mut (*to).cookie, from.cookie);
    }
}

#[inline(always)]
fn free(record: *mut SocketRecord) {
    // SAFETY: a live record.
    unsafe { ptr::write_volatile(&raw mut (*record).cookie, 0) };
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
    let Some(stored) = storage_of(socket, BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        return false;
    };
    let mut place = 0;
    let mut oldest = u64::MAX;
    for index in 0..STORED {
        let kept = stored_at(stored, index);
        if !is(kept, 0) && concerns(kept, record) {
            free(kept);
        }
        // SAFETY: a live record.
        let since = if is(kept, 0) { 0 } else { unsafe { (*kept).since } };
        if since < oldest {
            oldest = since;
            place = index;
        }
    }
    write(stored_at(stored, place & (STORED - 1)), record);
    true
}
