//! What is remembered about sockets: `remember`, `recall`, `forget`, and `release` at the end.
//!
//! A translation lies in a set-associative table that the socket's cookie indexes: finding and
//! making a record are a few memory accesses, where socket storage costs an allocation (660 ns
//! measured). A socket that finds its set full has its record in a hash (see `overflow`), and one whose
//! end no hook will see has it in socket storage (see `storage`). Either way a record lives exactly as
//! long as its socket.
//!
//! Within a socket, a record is found by the service that it is for, or by the backend that an
//! answer comes from. Both are unique but for one case: a connected UDP socket that connects again
//! keeps the record of its peer until the next call, since the kernel may refuse the new one.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::Array,
    helpers::generated::bpf_skc_to_mptcp_sock,
    macros::btf_map,
    programs::{SockAddrContext, SockContext},
};
use sockline_ebpf::{
    MMAPABLE,
    address::Address,
    counters::Fault,
    frontend::{TCP, UDP},
    id::BackendId,
    socket::{
        OverflowEntry, RECORD_UNITS, ROOT_CGROUP, SOCKET_SETS, STORAGE_RECORDS, STORAGE_UNITS,
        SocketRecord, SocketSet, WAYS,
    },
};

use super::{
    config, helpers,
    hook_context::{self, Family, HookContext, MPTCP},
    kernel_types::{self, TcpSocket},
    overflow,
    record::{RecordEntry, exclude_each_other, is_with},
    storage::{self, IN_USE},
};

/// Mapped into memory only to be aligned to cache lines; the agent just counts the records.
#[btf_map]
static SOCKETS: Array<SocketSet, { SOCKET_SETS as usize }, MMAPABLE> = Array::new();

/// What a translation is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Connect,
    /// A datagram of a socket that has another peer, or none.
    Send,
}

/// Keeps a translation for as long as the socket lives; `Err` says why it could not. It is called
/// before the call has its new destination, while the socket's own can be asked for.
#[inline(always)]
pub fn remember<F: Family>(
    hook: &HookContext<'_, F>,
    protocol: u8,
    purpose: Purpose,
    record: &SocketRecord,
) -> Result<(), Fault> {
    if protocol == TCP {
        remember_connection(hook.context(), record)
    } else {
        remember_conversation(hook, purpose, record)
    }
}

/// A TCP socket has one peer at a time.
#[inline(always)]
fn remember_connection(ctx: &SockAddrContext, record: &SocketRecord) -> Result<(), Fault> {
    let is_new = match kernel_types::tcp_socket(ctx) {
        TcpSocket::New => true,
        TcpSocket::Old => false,
        TcpSocket::OfKernel => {
            return match mptcp_connection(ctx) {
                Some(connection) if !kernel_types::is_established(connection) => {
                    storage::keep_of_connection(connection, record)
                }
                // Nobody asks for the peer name of the kernel's own sockets.
                _ => Ok(()),
            };
        }
        TcpSocket::Unknown => {
            let connection = mptcp_connection(ctx).unwrap_or_else(|| hook_context::socket(ctx));
            return storage::keep_of_connection(connection, record);
        }
    };
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        if !is_new && replace(set, cookie, record, |_| true) {
            return Ok(());
        }
        if add(set, cookie, record) {
            if !is_new && overflow::is_in_use() {
                overflow::release(cookie);
            }
            return Ok(());
        }
    }
    if let Some(entry) = entry_of(cookie, record)? {
        RecordEntry::in_overflow(entry).write(record, cookie);
    }
    Ok(())
}

/// A UDP socket may talk to several services.
#[inline(always)]
fn remember_conversation<F: Family>(
    hook: &HookContext<'_, F>,
    purpose: Purpose,
    record: &SocketRecord,
) -> Result<(), Fault> {
    let ctx = hook.context();
    // A connect that fails later leaves the socket with the peer that it has.
    let peer = if purpose == Purpose::Connect { hook.peer() } else { None };
    let excludes = |kept: &SocketRecord| {
        let stays = match &peer {
            Some((address, port)) => {
                is_with(kept, address, *port)
                    && !is_with(kept, &record.backend_address, record.backend_port)
            }
            None => false,
        };
        !stays && exclude_each_other(kept, record)
    };
    let is_released_with_a_hook = is_of_user();
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie)
        && (replace(set, cookie, record, excludes)
            || (is_released_with_a_hook && add(set, cookie, record)))
    {
        if overflow::is_in_use()
            && let Some(entry) = overflow::find(cookie)
        {
            clear(entry, cookie, excludes);
        }
        return Ok(());
    }
    if !is_released_with_a_hook {
        overflow::is_uncounted();
        return storage::keep_of_udp(hook_context::socket(ctx), record, excludes);
    }
    let Some(entry) = entry_of(cookie, record)? else { return Ok(()) };
    let candidate = RecordEntry::in_overflow(entry);
    if candidate.record_of(cookie).is_none_or(excludes) {
        candidate.write(record, cookie);
        return Ok(());
    }
    // SAFETY: a live map value.
    let (cgroup, units) = unsafe { ((*entry).cgroup, (*entry).units) };
    if units == RECORD_UNITS {
        overflow::take(cgroup, STORAGE_UNITS)?;
        // SAFETY: as above; the kernel holds the socket's lock.
        unsafe { (*entry).units = RECORD_UNITS + STORAGE_UNITS };
    }
    storage::keep_of_udp(hook_context::socket(ctx), record, excludes)
}

/// The entry that a socket has beyond the table; `None` if it was made, with this record.
#[inline(always)]
fn entry_of(cookie: u64, record: &SocketRecord) -> Result<Option<*mut OverflowEntry>, Fault> {
    if let Some(entry) = overflow::find(cookie) {
        return Ok(Some(entry));
    }
    if overflow::make(cookie, record)?.is_some() {
        return Ok(None);
    }
    overflow::find(cookie).map(Some).ok_or(Fault::NotRemembered)
}

/// Takes away a record beyond the table that one in the table excludes.
#[inline(always)]
fn clear(entry: *mut OverflowEntry, cookie: u64, excludes: impl Fn(&SocketRecord) -> bool) {
    let candidate = RecordEntry::in_overflow(entry);
    if candidate.record_of(cookie).is_some_and(excludes) {
        // SAFETY: a live map value.
        if unsafe { (*entry).units } == RECORD_UNITS {
            overflow::release(cookie);
        } else {
            candidate.free();
        }
    }
}

/// Writes a record in place of those of the same socket that it excludes.
#[inline(always)]
fn replace(
    set: *mut SocketSet,
    cookie: u64,
    record: &SocketRecord,
    excludes: impl Fn(&SocketRecord) -> bool,
) -> bool {
    let mut done = false;
    for way in 0..WAYS {
        let candidate = RecordEntry::in_table(set, way);
        if candidate.record_of(cookie).is_some_and(&excludes) {
            if done {
                candidate.free();
            } else {
                candidate.write(record, cookie);
                done = true;
            }
        }
    }
    done
}

/// Writes a record where there is room.
#[inline(always)]
fn add(set: *mut SocketSet, cookie: u64, record: &SocketRecord) -> bool {
    for way in 0..WAYS {
        let candidate = RecordEntry::in_table(set, way);
        if candidate.claim() {
            candidate.write(record, cookie);
            return true;
        }
    }
    false
}

/// The backend that the socket already has for a service address and port (network byte order), as it
/// was dialled: its id and generation. That of its peer, if there are two.
#[inline(always)]
pub fn recall_backend<F: Family>(
    hook: &HookContext<'_, F>,
    address: &Address,
    port: u16,
) -> Option<(BackendId, u32)> {
    let is_for =
        |kept: &SocketRecord| kept.service_port == port && kept.service_address == *address;
    let found = match hook.peer() {
        Some((peer, peer_port)) => {
            find(hook.context(), |kept| is_for(kept) && is_with(kept, &peer, peer_port))
                .or_else(|| find(hook.context(), is_for))
        }
        None => find(hook.context(), is_for),
    }?;
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
    let found = find(ctx, |kept| is_with(kept, address, port))?;
    Some((found.service_address, found.service_port))
}

/// Forgets that the socket got this address as a backend: it dialled it directly. An exact answer
/// to `getpeername` needs it, and nobody is to close the socket when that backend ends.
///
/// A TCP socket without a cookie, which is nearly every one, has nothing to forget. (Whether it has
/// a destination says nothing: `tcp_v4_connect` sets it only when there is a route.)
#[inline(always)]
pub fn forget(ctx: &SockAddrContext, protocol: u8, address: &Address, port: u16) {
    if protocol == TCP {
        match kernel_types::tcp_socket(ctx) {
            TcpSocket::New => return,
            TcpSocket::Old => {}
            TcpSocket::OfKernel | TcpSocket::Unknown => {
                let connection = match mptcp_connection(ctx) {
                    // A further subflow: the connection's peer is that of the first one.
                    Some(connection) if kernel_types::is_established(connection) => return,
                    Some(connection) => connection,
                    None => hook_context::socket(ctx),
                };
                if let Some(entry) = storage::of_connection(connection) {
                    RecordEntry::in_overflow(entry).free();
                }
                return;
            }
        }
    }
    let dialled = |kept: &SocketRecord| is_with(kept, address, port);
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let candidate = RecordEntry::in_table(set, way);
            if candidate.record_of(cookie).is_some_and(dialled) {
                candidate.free();
            }
        }
    }
    if !overflow::is_in_use() {
        return;
    }
    if let Some(entry) = overflow::find(cookie) {
        clear(entry, cookie, dialled);
    }
    if protocol == UDP
        && let Some(stored) = storage::of_udp(hook_context::socket(ctx))
    {
        for index in 0..STORAGE_RECORDS {
            let candidate = RecordEntry::in_storage(stored, index);
            if candidate.record_of(IN_USE).is_some_and(dialled) {
                candidate.free();
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
            let candidate = RecordEntry::in_table(set, way);
            if candidate.is_owned_by(cookie) {
                candidate.free();
            }
        }
    }
    if overflow::is_in_use() {
        overflow::release(cookie);
        // SAFETY: the context is valid while the program runs.
        let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).protocol) };
        if protocol == MPTCP || (protocol == u32::from(TCP) && !config::can_tell_kernel_sockets()) {
            storage::release_connection(ctx.sock.cast());
        }
    }
}

#[inline(always)]
fn find(
    ctx: &SockAddrContext,
    wanted: impl Fn(&SocketRecord) -> bool,
) -> Option<&'static SocketRecord> {
    let protocol = hook_context::protocol_of(ctx);
    let is_tcp = protocol == u32::from(TCP);
    if protocol == MPTCP || (is_tcp && !config::can_tell_kernel_sockets()) {
        let entry = storage::of_connection(hook_context::socket(ctx))?;
        return RecordEntry::in_overflow(entry).record_of(IN_USE).filter(|kept| wanted(kept));
    }
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            if let Some(kept) = RecordEntry::in_table(set, way).record_of(cookie)
                && wanted(kept)
            {
                return Some(kept);
            }
        }
    }
    if !overflow::is_in_use() {
        return None;
    }
    if let Some(entry) = overflow::find(cookie)
        && let Some(kept) = RecordEntry::in_overflow(entry).record_of(cookie)
        && wanted(kept)
    {
        return Some(kept);
    }
    if is_tcp {
        return None;
    }
    let stored = storage::of_udp(hook_context::socket(ctx))?;
    for index in 0..STORAGE_RECORDS {
        if let Some(kept) = RecordEntry::in_storage(stored, index).record_of(IN_USE)
            && wanted(kept)
        {
            return Some(kept);
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

/// Whether a UDP socket is closed with a hook. The kernel's own are used by its threads, which are in the
/// root cgroup; on hosts whose processes are all there (cgroup v1), those are told by the task.
#[inline(always)]
fn is_of_user() -> bool {
    helpers::current_cgroup() != ROOT_CGROUP || kernel_types::is_kernel_thread() == Some(false)
}

/// The MPTCP connection that a TCP socket is a subflow of. `connect()` on an MPTCP socket is seen
/// with its first subflow, which the kernel made and closes by itself; `getpeername()` is seen with
/// the connection's own socket. So what is remembered belongs to that one.
#[inline(always)]
fn mptcp_connection(ctx: &SockAddrContext) -> Option<*mut c_void> {
    if !config::has_mptcp_sock() {
        return None;
    }
    let socket = hook_context::socket(ctx);
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket that the kernel gave us.
    let connection = unsafe { bpf_skc_to_mptcp_sock(socket) }.cast::<c_void>();
    (!connection.is_null()).then_some(connection)
}
