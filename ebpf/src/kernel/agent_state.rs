//! Calls that go through unchanged because of the agent: its own, and all of them once it has been
//! gone for too long.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sockline_ebpf::{MMAPABLE, agent_state::AgentState};

use super::{
    helpers,
    hook_context::{Family, HookContext},
    namespaces,
};

#[btf_map]
static AGENT_STATE: Array<AgentState, 1, MMAPABLE> = Array::new();

/// What becomes of a call to a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Served,
    /// The agent's own connection.
    Own,
    /// No agent has renewed the deadline: what is in the maps may be long out of date.
    Stale,
    /// From a network namespace inside of a pod, which are excluded.
    Nested,
}

/// Until when events are written, in nanoseconds; 0 if none are.
#[inline(always)]
pub fn events_until() -> u64 {
    let Some(state) = AGENT_STATE.get_ptr(0) else { return 0 };
    // SAFETY: a live map value, whose words the agent writes: hence volatile.
    unsafe { (&raw const (*state).events_until).read_volatile() }
}

/// Until when programs log what they decide, in nanoseconds; 0 if they do not.
#[inline(always)]
pub fn debug_log_until() -> u64 {
    let Some(state) = AGENT_STATE.get_ptr(0) else { return 0 };
    // SAFETY: a live map value, whose words the agent writes: hence volatile.
    unsafe { (&raw const (*state).debug_log_until).read_volatile() }
}

/// Whether events are written, or lines of the log, as far as two loads can tell.
#[inline(always)]
pub fn is_observed() -> bool {
    let Some(state) = AGENT_STATE.get_ptr(0) else { return false };
    // SAFETY: a live map value, whose words the agent writes: hence volatile.
    unsafe {
        (&raw const (*state).events_until).read_volatile()
            | (&raw const (*state).debug_log_until).read_volatile()
            != 0
    }
}

/// Costs one load of an array as long as the options are off and the agent is not connecting.
#[inline(always)]
pub fn standing<F: Family>(hook: &HookContext<'_, F>) -> Standing {
    let Some(state) = AGENT_STATE.get_ptr_mut(0) else { return Standing::Served };
    // SAFETY: a live map value, whose words the agent writes: hence volatile.
    let (deadline, cookie, exclude_nested) = unsafe {
        (
            (&raw const (*state).fail_open_deadline).read_volatile(),
            (&raw const (*state).bypass_cookie).read_volatile(),
            (&raw const (*state).exclude_nested).read_volatile(),
        )
    };
    if cookie != 0 && cookie == helpers::socket_cookie(hook.context()) {
        // SAFETY: a live map value.
        unsafe { helpers::add(&raw mut (*state).own_calls, 1) };
        return Standing::Own;
    }
    if deadline != 0 && helpers::coarse_now() > deadline {
        return Standing::Stale;
    }
    if exclude_nested != 0 && namespaces::record_and_is_excluded(hook.netns()) {
        return Standing::Nested;
    }
    Standing::Served
}
