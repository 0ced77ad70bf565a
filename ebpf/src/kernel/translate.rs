//! What happens to a call: from the address that was dialled to a backend, and back.

use aya_log_ebpf::warn;
use sockline_ebpf::{
    address::Address,
    counters::Fault,
    frontend::{FORWARD, FrontendKey, PASS, UDP},
    socket::SocketRecord,
};

use super::{
    affinity,
    agent_state::{self, Standing},
    balance::{self, Chosen},
    call::{Call, Family},
    config, counters, frontends, helpers, left_alone, namespaces,
    sockets::{self, Purpose},
};

/// Lets the call go on, with the address that is in the context now.
const ALLOW: i32 = 1;
/// How often a call looks for its entry. Once more than needed in the build that upgrades are tested
/// with: something must be different in its programs.
const LOOKS: u32 = if cfg!(feature = "test-build") { 3 } else { 2 };

/// Ends the call with EPERM, or with what `bpf_set_retval` says.
const REFUSE: i32 = 0;

/// `connect()`: each one is a new choice, also on a socket that was connected before.
#[inline(always)]
pub fn connect<F: Family>(call: &Call<'_, F>) -> i32 {
    let Some(protocol) = call.protocol() else { return ALLOW };
    let Some(key) = frontends::key_of(call, protocol) else {
        return connected_directly(call, protocol);
    };
    match decide(call, key, Keep::Nothing) {
        Decision::NotAService => connected_directly(call, protocol),
        Decision::LeaveAlone => ALLOW,
        Decision::Refuse => refuse(),
        Decision::Use { service, chosen, .. } => {
            redirect(call, protocol, Purpose::Connect, service, &chosen);
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
pub fn send<F: Family>(call: &Call<'_, F>) -> i32 {
    if call.is_to_peer() {
        return ALLOW;
    }
    let Some(key) = frontends::key_of(call, UDP) else {
        return sent_directly(call);
    };
    match decide(call, key, Keep::BackendOfSocket) {
        Decision::NotAService => sent_directly(call),
        Decision::LeaveAlone => ALLOW,
        Decision::Refuse => refuse(),
        Decision::Use { chosen, kept: true, .. } => {
            call.redirect(&chosen.backend().address, chosen.backend().port);
            ALLOW
        }
        Decision::Use { service, chosen, kept: false } => {
            redirect(call, UDP, Purpose::Send, service, &chosen);
            ALLOW
        }
    }
}

/// `connect()` to an address that is no service. If the socket had that address as a backend before,
/// it must not be shown as the service from now on.
#[inline(always)]
fn connected_directly<F: Family>(call: &Call<'_, F>, protocol: u8) -> i32 {
    sockets::forget(call.context(), protocol, &call.address(), call.port());
    ALLOW
}

/// A datagram to an address that is no service: the answer shall come from there.
#[inline(always)]
fn sent_directly<F: Family>(call: &Call<'_, F>) -> i32 {
    sockets::forget(call.context(), UDP, &call.address(), call.port());
    ALLOW
}

/// `getpeername()`, `recvfrom()`: shows the address that was dialled in place of the backend's.
#[inline(always)]
pub fn reveal_service<F: Family>(call: &Call<'_, F>) {
    if let Some((address, port)) =
        sockets::recall_service(call.context(), &call.address(), call.port())
    {
        call.redirect(&address, port);
    }
}

/// Whether a socket's earlier choice counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    BackendOfSocket,
}

enum Decision {
    NotAService,
    LeaveAlone,
    Refuse,
    Use { service: u32, chosen: Chosen, kept: bool },
}

#[inline(always)]
fn decide<F: Family>(call: &Call<'_, F>, mut key: FrontendKey, keep: Keep) -> Decision {
    if left_alone::is_caller() {
        let Some(frontend) = frontends::find(&mut key) else { return Decision::NotAService };
        counters::passed(frontend.service);
        return Decision::LeaveAlone;
    }
    let mut service = 0;
    // An entry can be reused between two reads of it. The owner check notices, and one more look
    // finds the entry as it is now.
    for _attempt in 0..LOOKS {
        let Some(frontend) = frontends::find(&mut key) else { return Decision::NotAService };
        service = frontend.service;
        match agent_state::standing(call) {
            Standing::Served => {}
            Standing::Own => return Decision::NotAService,
            Standing::Nested => {
                counters::passed(service);
                return Decision::LeaveAlone;
            }
            Standing::Stale => {
                counters::bypassed_stale(service);
                return Decision::LeaveAlone;
            }
        }
        let (action, reason) = (frontend.action, frontend.reason);
        if action != FORWARD {
            if frontend.key != key {
                counters::fault(Fault::Reread);
                continue;
            }
            if action == PASS {
                counters::passed(service);
                return Decision::LeaveAlone;
            }
            counters::refused(service, reason);
            return Decision::Refuse;
        }
        if keep == Keep::BackendOfSocket
            && let Some((id, generation)) =
                sockets::recall_backend(call, &dialled(call), call.port())
            && let Some(chosen) = balance::again(id, |now| now == generation, frontend)
        {
            return Decision::Use { service, chosen, kept: true };
        }
        let chosen = if frontend.affinity_seconds == 0 {
            balance::draw(frontend)
        } else {
            affinity::choose(call, frontend)
        };
        if let Some(chosen) = chosen
            && frontend.key == key
        {
            counters::translated(&chosen);
            return Decision::Use { service, chosen, kept: false };
        }
        counters::fault(Fault::Reread);
    }
    counters::fault(Fault::OwnerMismatch);
    if counters::failed_open(service) {
        warn!(call.context(), "service {}: no backend could be read, calls go through", service);
    }
    Decision::LeaveAlone
}

#[inline(always)]
fn redirect<F: Family>(
    call: &Call<'_, F>,
    protocol: u8,
    purpose: Purpose,
    service: u32,
    chosen: &Chosen,
) {
    let record = SocketRecord {
        service_address: dialled(call),
        backend_address: chosen.backend().address,
        service_port: call.port(),
        backend_port: chosen.backend().port,
        service,
        backend: chosen.id,
        generation: chosen.backend().generation,
        since: helpers::jiffies(),
        protocol: protocol.into(),
    };
    namespaces::sample(record.since, || call.netns());
    call.redirect(&record.backend_address, record.backend_port);
    if let Err(fault) = sockets::remember(call, protocol, purpose, &record) {
        counters::fault(fault);
    }
}

/// The address that is asked for, as the socket remembers it: not always that of the frontend, since
/// NodePorts have one for all addresses of the local host, and one for those of all nodes. `connect(0.0.0.0)` means the local host, and
/// that is what `getpeername` would say.
#[inline(always)]
fn dialled<F: Family>(call: &Call<'_, F>) -> Address {
    let dialled = call.address();
    match dialled.as_loopback() {
        Some(loopback) if dialled.is_unspecified() => loopback,
        _ => dialled,
    }
}

#[inline(always)]
fn refuse() -> i32 {
    if config::has_set_retval() {
        helpers::fail_with_connection_refused();
    }
    REFUSE
}
