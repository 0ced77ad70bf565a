//! Debug logging of the programs: what they decide for calls, while an operator asks for it.
//!
//! The switch is [`crate::agent_state::AgentState::debug_log_until`]; [`DebugLog`] says what is logged meanwhile. A line
//! is a sequence of words, each followed by its value, from which the agent makes a sentence.

use crate::byte_enum::byte_enum;

byte_enum! {
    /// The hooks, by their bits in [`DebugLog::hooks`].
    pub enum LoggedHook {
        Connect4 = 0,
        Connect6 = 1,
        Sendmsg4 = 2,
        Sendmsg6 = 3,
        Recvmsg4 = 4,
        Recvmsg6 = 5,
        Getpeername4 = 6,
        Getpeername6 = 7,
        SockRelease = 8,
    }
}

impl LoggedHook {
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self.byte()
    }

    /// As the hook's pin is named.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::SockRelease => "sock_release",
        }
    }
}

byte_enum! {
    /// What a program decided.
    pub enum Decision {
        /// A backend was chosen. The detail is 1 if the end of the connection will not be seen.
        Chosen = 0,
        /// The datagram goes to the backend that the socket has.
        Kept = 1,
        /// The call is refused. The detail is a [`crate::frontend::Reason`].
        Refused = 2,
        /// The call goes through unchanged because the frontend says so. The detail is a
        /// [`crate::frontend::Reason`].
        Bypassed = 3,
        /// Unchanged: the caller is in an excluded pod.
        ExcludedPod = 4,
        /// Unchanged: the caller is in a network namespace inside of a pod, and those are excluded.
        NestedNamespace = 5,
        /// Unchanged: no agent has renewed the deadline.
        AgentGone = 6,
        /// Unchanged: the agent's own connection.
        OwnConnection = 7,
        /// Unchanged: no backend could be read.
        Unreadable = 8,
        /// The peer's address is shown as the Service's.
        Shown = 9,
        /// The socket's record is freed. The detail is an [`crate::telemetry::End`].
        Freed = 10,
    }
}

/// Service ports that can be selected.
pub const SELECTED: usize = 32;

/// The only entry of the map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugLog {
    /// [`LoggedHook::bit`]s.
    pub hooks: u64,
    /// The number of the latest window.
    pub window: u64,
    /// Lines of that window.
    pub used: u64,
    /// Lines that were not written, because the budget of a window was used up or the ring buffer had no room.
    pub skipped: u64,
    /// The service ids that are logged; 0 is none. All services, if the first is 0.
    pub services: [u64; SELECTED],
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for DebugLog {}

/// Lines in a window, on all CPUs together. The ring buffer has room for them.
pub const BUDGET: u64 = 128;
/// A window is 2 to this many nanoseconds: 0.54 s.
pub const WINDOW_SHIFT: u32 = 29;

/// The `target` of the lines.
pub const TARGET: &str = "sockline::programs";

const _: () = assert!(size_of::<DebugLog>() == 288);
