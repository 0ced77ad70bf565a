//! What the programs must know of the agent, in one cache line that the agent writes without system
//! calls.

/// The only entry of the map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgentState {
    /// `CLOCK_MONOTONIC` in nanoseconds: once it has passed, every call is bypassed, since no agent
    /// has renewed it. 0 is never.
    pub fail_open_deadline: u64,
    /// The cookie of a socket that the agent is about to connect: its own way to the API server must
    /// not depend on what it programmed. 0 is none.
    pub bypass_cookie: u64,
    /// Calls of such sockets to a service address, counted by the programs.
    pub own_calls: u64,
    /// How far the agent sets the deadline ahead, in nanoseconds; for those who read the node while the
    /// agent is down.
    pub fail_open_after: u64,
    /// 1: calls from network namespaces inside of pods go through unchanged
    /// ([`crate::namespaces::Namespace::excluded`]), and every namespace that dials a service is recorded.
    pub exclude_nested: u64,
    /// The service id that was given out last: the next one is above it, since sockets may remember that of a
    /// service which was deleted. For the next agent.
    pub last_service: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds: until then, programs write events ([`crate::event`]). 0 is off.
    pub events_until: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds: until then, programs log what they decide ([`crate::debug_log`]). 0 is off.
    pub debug_log_until: u64,
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AgentState {}

const _: () = assert!(size_of::<AgentState>() == 64);
