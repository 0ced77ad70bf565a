//! Calls that go through unchanged because of the agent: its own, and all of them once it has been
//! gone for too long.

use aya_ebpf::{btf_maps::Array, macros::btf_map, programs::SockAddrContext};
use sockline_ebpf::{MMAPABLE, agent_state::AgentState};

use super::helpers;

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
}

/// Costs one load of an array as long as the deadline is off and the agent is not connecting.
#[inline(always)]
pub fn standing(ctx: &SockAddrContext) -> Standing {
    let Some(state) = AGENT_STATE.get_ptr_mut(0) else { return Standing::Served };
    // SAFETY: a live map value, whose words the agent writes: hence volatile.
    let (deadline, cookie) = unsafe {
        (
            (&raw const (*state).fail_open_deadline).read_volatile(),
            (&raw const (*state).bypass_cookie).read_volatile(),
        )
    };
    if cookie != 0 && cookie == helpers::socket_cookie(ctx) {
        // SAFETY: a live map value.
        unsafe { helpers::add(&raw mut (*state).own_calls, 1) };
        return Standing::Own;
    }
    if deadline != 0 && helpers::coarse_now() > deadline {
        return Standing::Stale;
    }
    Standing::Served
}
