//! What happens to a call: from the address that was dialled to a backend, and back.

use aya_log_ebpf::warn;
use sockline_ebpf::{
    counters::Fault,
    debug_log::Decision as Logged,
    frontend::{Action, FrontendKey, Protocol},
    id::ServiceId,
    socket::{About, SocketRecord},
};

use super::{
    affinity,
    agent_state::{self, Standing},
    balance::{self, Chosen},
    config, counters,
    debug_log::{self, Call},
    exclusion, frontends, helpers,
    hook_context::{Family, HookContext},
    namespaces,
    record::{Kept, Purpose},
    sockets, telemetry,
};

/// Lets the call proceed, with the address that is in the context now.
const ALLOW: i32 = 1;
/// How often a call looks up its entry. Once more than needed in the build that upgrades are tested
/// with: something must be different in its programs.
const MAX_ATTEMPTS: u32 = if cfg!(feature = "test-build") { 3 } else { 2 };

/// Ends the call with EPERM, or with what `bpf_set_retval` says.
const REFUSE: i32 = 0;

/// `connect()`: each one is a new choice, also on a socket that was connected before.
#[inline(always)]
pub fn connect<F: Family>(hook: &HookContext<'_, F>) -> i32 {
    let Some(protocol) = hook.protocol() else { return ALLOW };
    let Some(key) = frontends::key_of(hook, protocol) else {
        return connected_directly(hook, protocol);
    };
    match decide(hook, key, Keep::Nothing) {
        Decision::NotAService => connected_directly(hook, protocol),
        Decision::Bypass => ALLOW,
        Decision::Refuse => refuse(),
        Decision::Use { service, chosen, .. } => {
            redirect(hook, protocol, Purpose::Connect, service, &chosen);
            ALLOW
        }
    }
}

/// `sendto()` and `sendmsg()` with an address: a socket stays with the backend it has.
///
/// What goes to the socket's own peer was decided when it connected. An IPv6 socket that is connected
/// to an IPv4 address is seen here with every plain `send()` (`udpv6_sendmsg` calls `udp_sendmsg`
/// with the peer's address): its backend is not dialled directly, and if it was connected before
/// Sockline came, answers from another address than its peer's would not reach it.
#[inline(always)]
pub fn send<F: Family>(hook: &HookContext<'_, F>) -> i32 {
    if hook.is_to_peer() {
        return ALLOW;
    }
    let Some(key) = frontends::key_of(hook, Protocol::Udp) else {
        return sent_directly(hook);
    };
    match decide(hook, key, Keep::BackendOfSocket) {
        Decision::NotAService => sent_directly(hook),
        Decision::Bypass => ALLOW,
        Decision::Refuse => refuse(),
        Decision::Use { service, chosen, kept: true } => {
            if debug_log::is_on() {
                debug_log::translated(hook, Call::Send, service, Logged::Kept, 0, chosen.key());
            }
            hook.redirect(&chosen.backend().address, chosen.backend().port);
            ALLOW
        }
        Decision::Use { service, chosen, kept: false } => {
            redirect(hook, Protocol::Udp, Purpose::Send, service, &chosen);
            ALLOW
        }
    }
}

/// `connect()` to an address that is no service. If the socket had that address as a backend before,
/// it must not be shown as the service from now on.
#[inline(always)]
fn connected_directly<F: Family>(hook: &HookContext<'_, F>, protocol: Protocol) -> i32 {
    sockets::forget(hook, protocol);
    ALLOW
}

/// A datagram to an address that is no service: the answer must come from there.
#[inline(always)]
fn sent_directly<F: Family>(hook: &HookContext<'_, F>) -> i32 {
    sockets::forget(hook, Protocol::Udp);
    ALLOW
}

/// `getpeername()`, `recvfrom()`: shows the address that was dialled in place of the backend's.
#[inline(always)]
pub fn reverse_translate<F: Family>(hook: &HookContext<'_, F>, call: Call) {
    if let Some(kept) = sockets::recall_service(hook.context(), &hook.address(), hook.port()) {
        hook.redirect(&kept.service_address, kept.service_port);
        if debug_log::is_on() {
            let backend = kept.backend_key();
            debug_log::translated(hook, call, kept.service, Logged::Shown, 0, backend);
        }
    }
}

/// Whether a socket's earlier choice counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    BackendOfSocket,
}

impl Keep {
    /// What is logged as the hook.
    #[inline(always)]
    const fn call(self) -> Call {
        match self {
            Self::Nothing => Call::Connect,
            Self::BackendOfSocket => Call::Send,
        }
    }
}

enum Decision {
    NotAService,
    Bypass,
    Refuse,
    Use { service: ServiceId, chosen: Chosen, kept: bool },
}

#[inline(always)]
fn decide<F: Family>(hook: &HookContext<'_, F>, mut key: FrontendKey, keep: Keep) -> Decision {
    let log = |service, decision, detail| {
        debug_log::untranslated(hook, keep.call(), service, decision, detail);
    };
    if exclusion::is_caller() {
        let Some(frontend) = frontends::find(&mut key) else { return Decision::NotAService };
        counters::bypassed(frontend.service);
        log(frontend.service, Logged::ExcludedPod, 0);
        return Decision::Bypass;
    }
    let mut service = ServiceId::NONE;
    // An entry can be reused between two reads of it. The owner check notices, and one more look
    // finds the entry as it is now.
    for _attempt in 0..MAX_ATTEMPTS {
        let Some(frontend) = frontends::find(&mut key) else { return Decision::NotAService };
        service = frontend.service;
        match agent_state::standing(hook) {
            Standing::Served => {}
            Standing::Own => {
                log(service, Logged::OwnConnection, 0);
                return Decision::NotAService;
            }
            Standing::Nested => {
                counters::bypassed(service);
                log(service, Logged::NestedNamespace, 0);
                return Decision::Bypass;
            }
            Standing::Stale => {
                counters::bypassed_stale(service);
                log(service, Logged::AgentGone, 0);
                return Decision::Bypass;
            }
        }
        let (action, reason) = (frontend.action, frontend.reason);
        if action != Action::Forward.byte() {
            if frontend.key != key {
                counters::fault(Fault::StaleEntry);
                continue;
            }
            if action == Action::Bypass.byte() {
                counters::bypassed(service);
                log(service, Logged::Bypassed, reason);
                return Decision::Bypass;
            }
            counters::refused(service, reason);
            if telemetry::is_watched() {
                telemetry::refused(hook, key.protocol, service, reason);
            }
            log(service, Logged::Refused, reason);
            return Decision::Refuse;
        }
        if keep == Keep::BackendOfSocket
            && let Some((id, generation)) =
                sockets::recall_backend(hook, &hook.dialled(), hook.port())
            && let Some(chosen) = balance::revalidate(id, |now| now == generation, frontend)
        {
            return Decision::Use { service, chosen, kept: true };
        }
        let chosen = if frontend.affinity_seconds == 0 {
            balance::select_weighted(frontend)
        } else {
            affinity::choose(hook, frontend)
        };
        if let Some(chosen) = chosen
            && frontend.key == key
        {
            counters::translated(&chosen);
            return Decision::Use { service, chosen, kept: false };
        }
        counters::fault(Fault::StaleEntry);
    }
    counters::fault(Fault::OwnerMismatch);
    log(service, Logged::Unreadable, 0);
    if counters::failed_open(service) {
        warn!(hook.context(), "service {}: no backend could be read, calls go through", service.0);
    }
    Decision::Bypass
}

#[inline(always)]
fn redirect<F: Family>(
    hook: &HookContext<'_, F>,
    protocol: Protocol,
    purpose: Purpose,
    service: ServiceId,
    chosen: &Chosen,
) {
    let cgroup = if telemetry::needs_client() { helpers::current_cgroup() } else { 0 };
    let record = SocketRecord {
        service_address: hook.dialled(),
        backend_address: chosen.backend().address,
        service_port: hook.port(),
        backend_port: chosen.backend().port,
        service,
        backend: chosen.id,
        generation: chosen.generation,
        since: helpers::jiffies(),
        about: About::new(protocol.byte(), cgroup).with_class(chosen.backend().class),
    };
    namespaces::sample(record.since, || hook.netns());
    let kept = match sockets::remember(hook, protocol, purpose, &record) {
        Ok(kept) => kept,
        Err(fault) => {
            counters::fault(fault);
            Kept::Untracked
        }
    };
    if kept == Kept::Untracked {
        telemetry::untracked(chosen);
    }
    // Asked once more: to keep the answer would take room on the stack. What is called asks for itself.
    if agent_state::is_observed() {
        telemetry::opened(hook, &record, kept);
        let detail = u8::from(kept == Kept::Untracked);
        debug_log::translated(hook, purpose.call(), service, Logged::Chosen, detail, chosen.key());
    }
    hook.redirect(&record.backend_address, record.backend_port);
}

#[inline(always)]
fn refuse() -> i32 {
    if config::has_set_retval() {
        helpers::fail_with_connection_refused();
    }
    REFUSE
}
