//! Logs what the programs decide for calls, while an operator asks for it.
//!
//! Otherwise that costs a load and a comparison. What logs is in BPF functions of their own with global names, which
//! the verifier checks once and not for each path that leads to a call. A line has numbers in place of names and
//! reasons: the agent has words for all of them, and programs would need code for each.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, bpf_sock, bpf_sock_addr},
    btf_maps::Array,
    macros::btf_map,
    programs::{SockAddrContext, SockContext},
};
use aya_log_ebpf::{debug, macro_support::AYA_LOGS};
use sockline_ebpf::{
    MMAPABLE,
    address::Address,
    debug_log::{BUDGET, DebugLog, Decision, LoggedHook, SELECTED, TARGET, WINDOW_SHIFT},
    id::{BackendKey, ServiceId},
    socket::SocketRecord,
    telemetry::End,
};

use super::{
    agent_state, balance, helpers,
    hook_context::{Family, HookContext, V4, V6},
};

#[btf_map]
static DEBUG_LOG: Array<DebugLog, 1, MMAPABLE> = Array::new();

/// Bytes of `AYA_LOGS` that may be in use before a line is written: so there is room for it, and for those of 60 other
/// CPUs that ask at the same time.
const RING_LIMIT: u64 = (128 << 10) - (32 << 10);

/// The hook of a call, without the family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Connect = LoggedHook::Connect4 as isize,
    Send = LoggedHook::Sendmsg4 as isize,
    Receive = LoggedHook::Recvmsg4 as isize,
    PeerName = LoggedHook::Getpeername4 as isize,
}

/// Whether lines are logged, as far as one load can tell.
#[inline(always)]
pub fn is_on() -> bool {
    agent_state::debug_log_until() != 0
}

/// A call is not translated: why, and a number that says more about it.
#[inline(always)]
pub fn untranslated<F: Family>(
    hook: &HookContext<'_, F>,
    call: Call,
    service: ServiceId,
    decision: Decision,
    detail: u8,
) {
    if is_on() {
        log::<F>(hook, call, service, decision, detail, BackendKey::default());
    }
}

/// A call is translated. Its address is the Service's; [`Decision::Shown`]: too.
#[inline(always)]
pub fn translated<F: Family>(
    hook: &HookContext<'_, F>,
    call: Call,
    service: ServiceId,
    decision: Decision,
    detail: u8,
    backend: BackendKey,
) {
    log::<F>(hook, call, service, decision, detail, backend);
}

#[inline(always)]
fn log<F: Family>(
    hook: &HookContext<'_, F>,
    call: Call,
    service: ServiceId,
    decision: Decision,
    detail: u8,
    BackendKey(backend): BackendKey,
) {
    let ctx = hook.context().sock_addr;
    let number = call as u32 + u32::from(F::IS_V6);
    let what = number | u32::from(decision.byte()) << 8 | u32::from(detail) << 16;
    if F::IS_V6 {
        sockline_log_call6(ctx, service.0, what, backend);
    } else {
        sockline_log_call4(ctx, service.0, what, backend);
    }
}

/// An end, for [`freed`]; 0 if lines are not logged.
#[inline(always)]
pub fn logged(end: End) -> u32 {
    if is_on() { end as u32 + 1 } else { 0 }
}

/// The record of a socket is freed. `end` is what [`logged`] returned. The record is read here once more, since what is
/// kept over a call takes room on the stack.
#[inline(always)]
pub fn freed(ctx: &SockContext, record: &SocketRecord, end: u32) {
    let Some(end) = end.checked_sub(1) else { return };
    let record = ptr::from_ref(record);
    // SAFETY: the fields of a live record.
    let (backend, generation, service) = unsafe {
        (
            ptr::read_volatile(&raw const (*record).backend),
            ptr::read_volatile(&raw const (*record).generation),
            ptr::read_volatile(&raw const (*record).service),
        )
    };
    sockline_log_freed(ctx.sock, service.0, end, BackendKey::new(backend, generation).0);
}

/// Whether a line is to be written. If there is no room for it, it is counted.
#[inline(always)]
fn is_wanted(hook: u32, service: u32) -> bool {
    let until = agent_state::debug_log_until();
    if until == 0 {
        return false;
    }
    let now = helpers::now();
    // An agent that has ended does not renew this.
    if now >= until {
        return false;
    }
    let Some(log) = DEBUG_LOG.get_ptr_mut(0) else { return false };
    // SAFETY: a live map value, whose words others write at the same time: hence volatile. The budget is inexact then.
    unsafe {
        let hooks = (&raw const (*log).hooks).read_volatile();
        if hooks >> (hook & 63) & 1 == 0 || !is_selected(log, service) {
            return false;
        }
        let window = now >> WINDOW_SHIFT;
        if (&raw const (*log).window).read_volatile() != window {
            (&raw mut (*log).window).write_volatile(window);
            (&raw mut (*log).used).write_volatile(0);
        }
        if (&raw const (*log).used).read_volatile() >= BUDGET
            || AYA_LOGS.query(BPF_RB_AVAIL_DATA.into()) > RING_LIMIT
        {
            helpers::add(&raw mut (*log).skipped, 1);
            return false;
        }
        helpers::add(&raw mut (*log).used, 1);
    }
    true
}

/// # Safety
///
/// `log` must point to a live map value.
#[inline(always)]
unsafe fn is_selected(log: *mut DebugLog, service: u32) -> bool {
    // SAFETY: the caller's promise.
    let services = unsafe { (&raw const (*log).services).cast::<u64>() };
    for index in 0..SELECTED {
        // SAFETY: within the array.
        let selected = unsafe { services.add(index).read_volatile() };
        if selected == u64::from(service) {
            return true;
        }
        if selected == 0 {
            return index == 0;
        }
    }
    false
}

/// The address of a backend, and its port in host byte order, while its entry belongs to it; else unspecified.
#[inline(always)]
fn endpoint(backend: BackendKey) -> (Address, u16) {
    let entry = balance::entry_of(backend);
    if entry.is_null() {
        return (Address { words: [0; 4] }, 0);
    }
    // SAFETY: a live map value.
    unsafe { ((*entry).address, u16::from_be((*entry).port)) }
}

/// The bytes of an address, as they are logged.
#[inline(always)]
fn bytes(address: Address) -> [u8; 16] {
    // SAFETY: any bytes are an array of bytes.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(address.words) }
}

/// Writes a line. The agent (`kernel_log.rs`) knows these words, in this order.
macro_rules! write_line {
    ($ctx:expr, $service:expr, $hook:expr, $decision:expr, $detail:expr, $address:expr, $port:expr, $backend:expr) => {
        let backend = BackendKey($backend);
        let (endpoint, port) = endpoint(backend);
        debug!(
            $ctx,
            target: TARGET,
            "service {} hook {} decision {} detail {} address {:i} port {} backend {} endpoint {:i} port {} socket {} process {}",
            $service,
            $hook,
            $decision,
            $detail,
            bytes($address),
            $port,
            backend.id().0,
            bytes(endpoint),
            port,
            helpers::socket_cookie($ctx),
            helpers::current_process()
        );
    };
}

/// Defines the function of a family.
macro_rules! function {
    ($family:ident, $name:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(ctx: *mut bpf_sock_addr, service: u32, what: u32, backend: u64) -> u32 {
            if is_wanted(what & 0xff, service) {
                let ctx = SockAddrContext::new(ctx);
                let hook = HookContext::<$family>::new(&ctx);
                write_line!(
                    &ctx,
                    service,
                    what as u8,
                    (what >> 8) as u8,
                    (what >> 16) as u8,
                    hook.address(),
                    u16::from_be(hook.port()),
                    backend
                );
            }
            0
        }
    };
}

function!(V4, sockline_log_call4);
function!(V6, sockline_log_call6);

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_log_freed(ctx: *mut bpf_sock, service: u32, end: u32, backend: u64) -> u32 {
    const HOOK: LoggedHook = LoggedHook::SockRelease;
    if is_wanted(HOOK.byte().into(), service) {
        let ctx = SockContext::new(ctx);
        let none = Address { words: [0; 4] };
        let decision = Decision::Freed.byte();
        write_line!(&ctx, service, HOOK.byte(), decision, end as u8, none, 0u16, backend);
    }
    0
}
