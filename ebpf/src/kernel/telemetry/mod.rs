//! What is counted of connections and flows when they end.
//!
//! [`socket`] reads from a socket how its connection went, [`counts`] adds that up by backend and service without what the
//! agent has counted before ([`partly_counted`]), [`clients`] by client and service, and [`events`] writes it for those who
//! watch.
//!
//! All of it is in BPF functions of their own with global names, which the verifier checks once and not for each path
//! that leads to a call, and which cost those paths nothing that do not take it. Before Linux 5.13 such a function
//! takes numbers and the program's context only, so a record is handed over as numbers.

mod clients;
mod counts;
mod events;
mod partly_counted;
mod socket;

use core::ptr;

use super::debug_log;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use sockline_ebpf::{
    id::BackendKey,
    partly_counted::Part,
    socket::{About, SocketRecord},
    telemetry::End,
};

pub use self::{
    counts::untracked,
    events::{is_watched, opened, refused},
};

/// Whether records must have the client's cgroup.
#[inline(always)]
pub fn needs_client() -> bool {
    clients::are_counted() || is_watched()
}

/// A record, in numbers: a copy of what is counted, for when its entry is gone. Few, for there is little room on the
/// stack.
pub struct Ended {
    backend: BackendKey,
    since: u64,
    /// The service's id in the lower half; in the upper one [`Self::UNTRACKED`] and the class of the traffic (what is
    /// counted of flows has no room on its stack for `about` as well), and above that the record's place.
    service: u64,
    about: About,
}

impl Ended {
    /// The record is untracked, see [`SocketRecord`].
    const UNTRACKED: u64 = 1 << 32;
    /// What [`About`] has between the protocol and the cgroup, and how far it is moved up.
    const FLAGS: u64 = 0xff00;
    const FLAGS_SHIFT: u32 = 24;
    const PLACE: u32 = 40;

    /// Counts nothing.
    pub const NOTHING: Self =
        Self { backend: BackendKey(0), since: 0, service: Self::UNTRACKED, about: About(0) };

    #[inline(always)]
    pub fn of(record: &SocketRecord) -> Self {
        Self {
            backend: record.backend_key(),
            since: record.since,
            service: u64::from(record.service.0)
                | (record.about.0 & Self::FLAGS) << Self::FLAGS_SHIFT,
            about: record.about,
        }
    }

    /// Of a record in the socket table.
    #[inline(always)]
    pub fn at(record: &SocketRecord, place: u32) -> Self {
        let ended = Self::of(record);
        Self { service: ended.service | u64::from(place) << Self::PLACE, ..ended }
    }

    #[inline(always)]
    const fn is_untracked(service: u64) -> bool {
        service & Self::UNTRACKED != 0
    }

    #[inline(always)]
    const fn class(service: u64) -> u8 {
        About(service >> Self::FLAGS_SHIFT).class()
    }

    /// The socket is being closed. Returns how, if that is logged: for the caller has no room on its stack to ask.
    #[inline(always)]
    pub fn socket_closed(&self, ctx: *mut bpf_sock) -> u32 {
        sockline_socket_closed(ctx, self.backend.0, self.service, self.since, self.about.0)
    }

    /// The socket connects again, after an attempt that failed.
    #[inline(always)]
    pub fn attempt_ended(&self, ctx: *mut bpf_sock_addr) {
        sockline_attempt_ended(ctx, self.backend.0, self.service, self.since, self.about.0);
    }

    /// A UDP socket has another backend now.
    #[inline(always)]
    pub fn flow_ended(&self) {
        sockline_flow_ended(self.backend.0, self.service, self.since, self.about.0);
    }
}

/// Writes the event of a flow that ends: before [`Ended::flow_ended`], and not within, since what calls that leaves 32
/// bytes of the stack. It reads the record for itself, hence volatile: what is kept over a call takes room as well.
#[inline(always)]
pub fn flow_event(record: &SocketRecord, end: End) {
    let record = ptr::from_ref(record);
    // SAFETY: the fields of a live record.
    let (backend, generation, service, since, about) = unsafe {
        (
            ptr::read_volatile(&raw const (*record).backend),
            ptr::read_volatile(&raw const (*record).generation),
            ptr::read_volatile(&raw const (*record).service),
            ptr::read_volatile(&raw const (*record).since),
            ptr::read_volatile(&raw const (*record).about),
        )
    };
    let backend = BackendKey::new(backend, generation);
    sockline_flow_event(backend.0, service.0, since, about.0 | (end as u64) << END_SHIFT);
}

/// Where [`sockline_flow_event`] has the end: in the free bits of [`About`].
const END_SHIFT: u32 = 12;
const END_MASK: u8 = 0xf;

const _: () = assert!(End::ALL.len() <= END_MASK as usize + 1);

/// The record of a flow is dropped, though the flow continues.
#[inline(always)]
pub fn flow_dropped(record: &SocketRecord) {
    flow_event(record, End::Untracked);
    let ended = Ended::of(record);
    sockline_flow_dropped(ended.backend.0, ended.service);
}

/// What the agent has counted of a connection that ends now; null if there is nothing.
#[inline(always)]
fn counted(service: u64, about: u64) -> *const Part {
    if About(about).is_partly_counted() {
        partly_counted::end((service >> Ended::PLACE) as u32)
    } else {
        ptr::null()
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_socket_closed(
    ctx: *mut bpf_sock,
    backend: u64,
    service: u64,
    since: u64,
    about: u64,
) -> u32 {
    if !ctx.is_null() && !Ended::is_untracked(service) {
        // SAFETY: the context is valid while the program runs.
        let state = unsafe { ptr::read_volatile(&raw const (*ctx).state) };
        // SAFETY: as above.
        let protocol = unsafe { ptr::read_volatile(&raw const (*ctx).protocol) };
        let end = socket::outcome(ctx.cast(), state, protocol);
        counts::ended(
            BackendKey(backend),
            service as u32,
            since,
            Ended::class(service),
            &end,
            || counted(service, about),
        );
        clients::ended(service as u32, About(about), &end);
        events::ended(BackendKey(backend), service as u32, since, About(about), &end);
        return debug_log::logged(end.end);
    }
    debug_log::logged(End::Untracked)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_attempt_ended(
    ctx: *mut bpf_sock_addr,
    backend: u64,
    service: u64,
    since: u64,
    about: u64,
) -> u32 {
    if !ctx.is_null() && !Ended::is_untracked(service) {
        // SAFETY: the context is valid while the program runs.
        let sock = unsafe { (*ctx).__bindgen_anon_1.sk };
        // The hook runs for a socket that is not connected only (`__inet_stream_connect`).
        let end = socket::outcome_of_attempt(sock.cast());
        counts::ended(
            BackendKey(backend),
            service as u32,
            since,
            Ended::class(service),
            &end,
            || counted(service, about),
        );
        clients::ended(service as u32, About(about), &end);
        events::ended(BackendKey(backend), service as u32, since, About(about), &end);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_flow_ended(backend: u64, service: u64, since: u64, about: u64) -> u32 {
    if !Ended::is_untracked(service) {
        let end = socket::Outcome::of(End::Client);
        // In this order it takes 32 bytes of the stack.
        clients::ended(service as u32, About(about), &end);
        counts::ended(
            BackendKey(backend),
            service as u32,
            since,
            Ended::class(service),
            &end,
            ptr::null,
        );
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_flow_dropped(backend: u64, service: u64) -> u32 {
    if !Ended::is_untracked(service) {
        let end = socket::Outcome::of(End::Untracked);
        counts::ended(
            BackendKey(backend),
            service as u32,
            0,
            Ended::class(service),
            &end,
            ptr::null,
        );
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_flow_event(backend: u64, service: u32, since: u64, about: u64) -> u32 {
    let end = (about >> END_SHIFT) as u8 & END_MASK;
    let about = About(about);
    if !about.is_untracked() {
        events::flow_ended(BackendKey(backend), service, since, about, end);
    }
    0
}
