//! Reads from a socket how its connection ended, at offsets that the agent takes from the running kernel's description of
//! its types (BTF).
//!
//! A helper call per field would cost 10 ns each, so most fields are read at once: they lie close together in
//! `struct tcp_sock`, on each kernel in another order.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, size_of},
    ptr,
};

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock},
};
use sockline_ebpf::telemetry::End;

use crate::kernel::hook_context::{MPTCP, TCP, UDP};

/// How a connection or a flow went.
pub struct Outcome {
    pub end: End,
    pub sent: u64,
    pub received: u64,
    pub retransmitted: u32,
    /// In eighths of a microsecond; 0 if it was not measured.
    pub round_trip: u32,
}

impl Outcome {
    #[inline(always)]
    pub const fn of(end: End) -> Self {
        Self { end, sent: 0, received: 0, retransmitted: 0, round_trip: 0 }
    }
}

/// Defines the offsets. The agent sets them all, or none.
macro_rules! fields {
    ($($name:ident)+) => {$(
        #[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(0);
    )+};
}

fields! {
    // In `struct sock`.
    SK_STATE SK_FLAGS SK_LINGERTIME SK_ERR SK_INCOMING_CPU
    // In `struct tcp_sock`.
    TCP_BYTES_ACKED TCP_BYTES_RECEIVED TCP_SND_UNA TCP_WRITE_SEQ TCP_RCV_NXT TCP_COPIED_SEQ TCP_SRTT_US
    TCP_TOTAL_RETRANS ICSK_RETRANSMITS ICSK_PROBES_OUT
    // In `struct mptcp_sock`; 0 where there is none.
    MPTCP_FIRST
}

/// Where the part of `struct tcp_sock` begins that is read at once.
#[unsafe(no_mangle)]
static TCP_WINDOW: Global<u32> = Global::new(0);

/// 1: sockets are read.
#[unsafe(no_mangle)]
static READS_SOCKETS: Global<u8> = Global::new(0);

/// The words of that part, which lies on the stack.
const WINDOW: usize = 46;
/// Of an attempt that failed, few fields are needed, and `connect()` has little room on its stack.
const NONE: usize = 0;
/// How often that part is read again.
const ATTEMPTS: usize = 2;

// `include/net/tcp_states.h`.
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

// `include/uapi/asm-generic/errno.h`.
const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;

// `enum sock_flags` of `include/net/sock.h`.
const SOCK_DONE: u64 = 1 << 1;
const SOCK_LINGER: u64 = 1 << 4;

#[inline(always)]
pub fn are_read() -> bool {
    READS_SOCKETS.load() != 0
}

/// A socket, and the part of its `struct tcp_sock` that is read at once.
struct Window<const WORDS: usize> {
    socket: *const c_void,
    /// Where single fields are read to: one place for all, since there is little room on the stack.
    field: u64,
    words: MaybeUninit<[u64; WORDS]>,
}

impl<const WORDS: usize> Window<WORDS> {
    const SIZE: usize = WORDS * size_of::<u64>();

    #[inline(always)]
    const fn new(socket: *const c_void) -> Self {
        Self { socket, field: 0, words: MaybeUninit::uninit() }
    }

    /// Reads the part, where it lies: a copy would not fit the stack.
    #[inline(always)]
    fn fill(&mut self) {
        if WORDS > 0 {
            // SAFETY: as in `read`.
            unsafe {
                bpf_probe_read_kernel(
                    self.words.as_mut_ptr().cast(),
                    Self::SIZE as u32,
                    self.socket.byte_add(TCP_WINDOW.load() as usize),
                );
            }
        }
    }

    /// Reads the flags, and the part again where it does not belong together: packets may come while it is read, since
    /// the socket is not locked.
    #[inline(always)]
    fn settled_flags(&mut self) -> u64 {
        let mut flags = self.read(&SK_FLAGS);
        if WORDS > 0 {
            for _ in 0..ATTEMPTS {
                if self.belongs_together(flags) {
                    break;
                }
                self.fill();
                flags = self.read(&SK_FLAGS);
            }
        }
        flags
    }

    /// Whether no acknowledgement came between the two fields that it changes (`tcp_snd_una_update`): then the first
    /// of them, as they lie in memory, has not changed since. And whether the part has the FIN if the flags, which were
    /// read after it, have: nothing comes after a FIN.
    #[inline(always)]
    fn belongs_together(&mut self, flags: u64) -> bool {
        let first = if TCP_BYTES_ACKED.load() < TCP_SND_UNA.load() {
            &TCP_BYTES_ACKED
        } else {
            &TCP_SND_UNA
        };
        if self.read::<u32>(first) != self.get::<u32>(first) {
            return false;
        }
        let next = self.get::<u32>(&TCP_RCV_NXT);
        if flags & SOCK_DONE != 0 {
            self.read::<u32>(&TCP_RCV_NXT) == next
        } else {
            // The kernel counts the FIN a moment before it sets the flag. It may also be data that nobody has read.
            next == self.get::<u32>(&TCP_COPIED_SEQ)
        }
    }

    /// A field of up to 8 bytes.
    #[inline(always)]
    fn read<T: Copy>(&mut self, field: &Global<u32>) -> T {
        let place = &raw mut self.field;
        // SAFETY: the helper reads any address; what cannot be read is zero.
        unsafe {
            bpf_probe_read_kernel(
                place.cast(),
                size_of::<T>() as u32,
                self.socket.byte_add(field.load() as usize),
            );
            ptr::read_volatile(place.cast())
        }
    }

    /// A field, also if it is not in the part.
    #[inline(always)]
    fn get<T: Copy>(&mut self, field: &Global<u32>) -> T {
        let at = field.load().wrapping_sub(TCP_WINDOW.load()) as usize;
        if WORDS > 0 && at <= Self::SIZE - size_of::<u64>() {
            // SAFETY: within the part, which the helper has written; fields are aligned in their structure, and
            // the part begins at a multiple of 8.
            unsafe { ptr::read_volatile(self.words.as_ptr().byte_add(at).cast()) }
        } else {
            self.read(field)
        }
    }
}

/// Of a socket that is being closed.
#[inline(always)]
pub fn outcome(socket: *const c_void, state: u32, protocol: u32) -> Outcome {
    if !are_read() {
        return Outcome::of(End::Unknown);
    }
    let mut window = Window::<WINDOW>::new(socket);
    if protocol == UDP {
        let refused = window.read::<u32>(&SK_ERR) == ECONNREFUSED;
        return Outcome::of(if refused { End::Refused } else { End::Client });
    }
    let mut subflow = state;
    if protocol != TCP {
        if protocol != MPTCP || MPTCP_FIRST.load() == 0 {
            return Outcome::of(End::Unknown);
        }
        // What the connection's first subflow says. Others are not read.
        window.socket = window.read::<u64>(&MPTCP_FIRST) as *const c_void;
        if window.socket.is_null() {
            return Outcome::of(End::Unknown);
        }
        subflow = window.read::<u8>(&SK_STATE).into();
    }
    of_connection(&mut window, state, subflow)
}

/// Of a socket that connects again: it is in no other state than that.
#[inline(always)]
pub fn outcome_of_attempt(socket: *mut c_void) -> Outcome {
    if !are_read() || socket.is_null() {
        return Outcome::of(End::Unknown);
    }
    // The verifier rejects arithmetic on the address of the context's socket.
    // SAFETY: a socket that the kernel gave us.
    let socket = unsafe { bpf_skc_to_tcp_sock(socket) }.cast::<c_void>().cast_const();
    if socket.is_null() {
        return Outcome::of(End::Unknown);
    }
    of_connection(&mut Window::<NONE>::new(socket), CLOSE, CLOSE)
}

/// `state` is that of the connection, `subflow` that of the TCP socket, which differ for MPTCP.
#[inline(always)]
fn of_connection<const WORDS: usize>(
    window: &mut Window<WORDS>,
    state: u32,
    subflow: u32,
) -> Outcome {
    window.fill();
    let mut outcome = Outcome::of(End::GivenUp);
    outcome.retransmitted = window.get(&TCP_TOTAL_RETRANS);
    if state == SYN_SENT || state == SYN_RECV {
        return outcome;
    }
    if state == CLOSE && window.get::<u64>(&TCP_BYTES_ACKED) == 0 {
        outcome.end = why_failed(window);
        return outcome;
    }
    let flags = window.settled_flags();
    // The SYN counts as a byte, and so do the FINs.
    let acknowledged: u64 = window.get(&TCP_BYTES_ACKED);
    let waiting = window.get::<u32>(&TCP_WRITE_SEQ).wrapping_sub(window.get::<u32>(&TCP_SND_UNA));
    let is_fin_received = flags & SOCK_DONE != 0;
    let mut is_fin_sent = is_one_of(subflow, &[FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK]);
    outcome.end = if state == CLOSE {
        let error = window.read(&SK_ERR);
        let have_both_ended = is_fin_received && waiting == 0;
        let end =
            if error == 0 && have_both_ended { End::Client } else { why_closed(window, error) };
        is_fin_sent = end as u32 == End::Client as u32;
        end
    } else {
        let unread =
            window.get::<u32>(&TCP_RCV_NXT).wrapping_sub(window.get::<u32>(&TCP_COPIED_SEQ));
        // A FIN that was not read is no data.
        if unread > u32::from(is_fin_received)
            || (flags & SOCK_LINGER != 0 && window.read::<u64>(&SK_LINGERTIME) == 0)
        {
            End::ClientReset
        } else if is_one_of(state, &[CLOSE_WAIT, LAST_ACK]) {
            End::Server
        } else {
            End::Client
        }
    };
    outcome.sent = (acknowledged + u64::from(waiting)).saturating_sub(1 + u64::from(is_fin_sent));
    outcome.received =
        window.get::<u64>(&TCP_BYTES_RECEIVED).saturating_sub(is_fin_received.into());
    outcome.round_trip = window.get(&TCP_SRTT_US);
    outcome
}

#[inline(always)]
fn is_one_of(state: u32, states: &[u32]) -> bool {
    let mut mask = 0;
    for state in states {
        mask |= 1_u32 << state;
    }
    mask >> (state & 31) & 1 != 0
}

/// Of a connection that was not established, or that the application has taken down with `connect(AF_UNSPEC)`. Once
/// it has fetched the error, `tcp_disconnect` has cleared most of the statistics.
#[inline(always)]
fn why_failed<const WORDS: usize>(window: &mut Window<WORDS>) -> End {
    match window.read::<u32>(&SK_ERR) {
        0 => {
            if window.read::<i32>(&SK_INCOMING_CPU) >= 0 {
                End::Refused
            } else if window.read::<u8>(&ICSK_RETRANSMITS) != 0 {
                End::TimedOut
            } else {
                End::Unreachable
            }
        }
        ECONNREFUSED => End::Refused,
        // `tcp_disconnect` of a connection that was not over. Only the answer to a SYN sets what is expected next.
        ECONNRESET if window.get::<u32>(&TCP_RCV_NXT) != 0 => End::ClientReset,
        ECONNRESET | ECONNABORTED => End::GivenUp,
        ETIMEDOUT => End::TimedOut,
        _ => End::Unreachable,
    }
}

/// Of a connection that was established and is over, before its socket is closed, and not by a FIN of each side.
#[inline(always)]
fn why_closed<const WORDS: usize>(window: &mut Window<WORDS>, error: u32) -> End {
    match error {
        0 => {
            let retransmits = window.read::<u8>(&ICSK_RETRANSMITS);
            if retransmits | window.read::<u8>(&ICSK_PROBES_OUT) != 0 {
                End::Lost
            } else {
                End::ServerReset
            }
        }
        ECONNRESET | EPIPE => End::ServerReset,
        ECONNABORTED => End::ClientReset,
        _ => End::Lost,
    }
}
