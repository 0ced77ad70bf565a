//! The records of sockets: `remember`, `recall_service`, `recall_backend`, `forget`; the end is in `release`.
//!
//! A translation lies in a set-associative table that the socket's cookie indexes: finding and
//! making a record are a few memory accesses, where socket storage costs an allocation (660 ns
//! measured). A socket that finds its set full has its record in a hash (see `overflow`), and one whose
//! end no hook will see has it in socket storage (see `storage`). Either way a record lives exactly as
//! long as its socket.
//!
//! Within a socket, a record is found by the service that it is for, or by the backend that an
//! answer comes from. Both are unique but for one case: a connected UDP socket that connects again
//! keeps the record of its peer, since the kernel may refuse the new one. The next call for the same service
//! or backend ends it, or the socket's end: until then the flow to an earlier peer counts as active.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_skc_to_mptcp_sock, programs::SockAddrContext};
use sockline_ebpf::{
    address::Address,
    counters::Fault,
    frontend::Protocol,
    id::BackendId,
    socket::{
        OverflowEntry, RECORD_UNITS, ROOT_CGROUP, STORAGE_RECORDS, STORAGE_UNITS, SocketRecord,
        SocketSet, WAYS,
    },
};

use super::{
    config, flows, helpers,
    hook_context::{self, Family, HookContext, MPTCP, TCP},
    kernel_types::{self, TcpSocket},
    overflow,
    record::{Kept, Purpose, RecordEntry, is_with},
    release,
    socket_table::set_of,
    storage::{self, IN_USE},
};

/// Keeps a translation for as long as the socket lives; `Err` says why it could not. It is called
/// before the call has its new destination, while the socket's own can be asked for.
#[inline(always)]
pub fn remember<F: Family>(
    hook: &HookContext<'_, F>,
    protocol: Protocol,
    purpose: Purpose,
    record: &SocketRecord,
) -> Result<Kept, Fault> {
    if protocol == Protocol::Tcp {
        remember_connection(hook.context(), record)
    } else {
        remember_conversation(hook, purpose, record)
    }
}

/// A TCP socket has one peer at a time.
#[inline(always)]
fn remember_connection(ctx: &SockAddrContext, record: &SocketRecord) -> Result<Kept, Fault> {
    let is_new = match kernel_types::tcp_socket(ctx) {
        TcpSocket::New => true,
        TcpSocket::Old => false,
        TcpSocket::OfKernel => {
            return match mptcp_connection(ctx) {
                Some(connection) if !kernel_types::is_established(connection) => {
                    storage::keep_of_connection(ctx, connection, record)
                }
                // Nobody asks for the peer name of the kernel's own sockets.
                _ => Ok(Kept::Untracked),
            };
        }
        TcpSocket::Unknown => {
            let connection = mptcp_connection(ctx).unwrap_or_else(|| hook_context::socket(ctx));
            return storage::keep_of_connection(ctx, connection, record);
        }
    };
    let cookie = helpers::socket_cookie(ctx);
    if !is_new {
        release::release_attempt(ctx, cookie);
    }
    if let Some(set) = set_of(cookie)
        && add(set, cookie, record)
    {
        return Ok(Kept::UntilEnd);
    }
    if let Some(entry) = entry_of(cookie, record)? {
        RecordEntry::in_overflow(entry).write(record, cookie);
    }
    Ok(Kept::UntilEnd)
}

/// A UDP socket may talk to several services.
#[inline(always)]
fn remember_conversation<F: Family>(
    hook: &HookContext<'_, F>,
    purpose: Purpose,
    record: &SocketRecord,
) -> Result<Kept, Fault> {
    let ctx = hook.context();
    let cookie = helpers::socket_cookie(ctx);
    flows::end_excluded(hook, cookie, record.backend, purpose);
    if !is_of_user() {
        overflow::mark_kernel_storage();
        return storage::keep_of_udp(ctx, record, Kept::Untracked).map(|()| Kept::Untracked);
    }
    if let Some(set) = set_of(cookie)
        && add(set, cookie, record)
    {
        return Ok(Kept::UntilEnd);
    }
    let Some(entry) = entry_of(cookie, record)? else { return Ok(Kept::UntilEnd) };
    let candidate = RecordEntry::in_overflow(entry);
    if candidate.record_of(cookie).is_none() {
        candidate.write(record, cookie);
        return Ok(Kept::UntilEnd);
    }
    // SAFETY: a live map value.
    let (cgroup, units) = unsafe { ((*entry).cgroup, (*entry).units) };
    if units == RECORD_UNITS {
        overflow::take(cgroup, STORAGE_UNITS)?;
        // SAFETY: as above; the kernel holds the socket's lock.
        unsafe { (*entry).units = RECORD_UNITS + STORAGE_UNITS };
    }
    storage::keep_of_udp(ctx, record, Kept::UntilEnd).map(|()| Kept::UntilEnd)
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
) -> Option<&'static SocketRecord> {
    find(ctx, |kept| is_with(kept, address, port))
}

/// Forgets that the socket got this address as a backend: it dialled it directly. An exact answer
/// to `getpeername` needs it, and nobody is to close the socket when that backend ends.
///
/// A TCP socket without a cookie, which is nearly every one, has nothing to forget. (Whether it has
/// a destination says nothing: `tcp_v4_connect` sets it only when there is a route.)
#[inline(always)]
pub fn forget<F: Family>(hook: &HookContext<'_, F>, protocol: Protocol) {
    let ctx = hook.context();
    if protocol == Protocol::Tcp {
        match kernel_types::tcp_socket(ctx) {
            TcpSocket::New => {}
            TcpSocket::Old => release::release_attempt(ctx, helpers::socket_cookie(ctx)),
            TcpSocket::OfKernel | TcpSocket::Unknown => {
                let connection = match mptcp_connection(ctx) {
                    // A further subflow: the connection's peer is that of the first one.
                    Some(connection) if kernel_types::is_established(connection) => return,
                    Some(connection) => connection,
                    None => hook_context::socket(ctx),
                };
                if let Some(entry) = storage::of_connection(connection) {
                    storage::release_attempt(ctx, entry);
                }
            }
        }
        return;
    }
    flows::end_dialled(hook, helpers::socket_cookie(ctx));
}

#[inline(always)]
fn find(
    ctx: &SockAddrContext,
    wanted: impl Fn(&SocketRecord) -> bool,
) -> Option<&'static SocketRecord> {
    let protocol = hook_context::protocol_of(ctx);
    let is_tcp = protocol == TCP;
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

/// Whether a UDP socket is closed with a hook. The kernel's own are used by its threads, which are in the
/// root cgroup; on hosts whose processes are all there (cgroup v1), the task tells them apart.
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
