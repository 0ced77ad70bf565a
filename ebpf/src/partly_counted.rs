//! What is already counted of connections that are open.
//!
//! The agent reads long connections from time to time and counts what is new. For the rest to be counted exactly once, the
//! program that sees the end has to know what was. Each record of the socket table has an entry at the same place:
//!
//! - The agent clears the entry, marks the record ([`crate::socket::About::partly_counted`]), and waits until every program has
//!   ended that may have seen the record without the mark.
//! - To count, it writes what the kernel says now where [`State`] does not point, and makes it point there by
//!   compare-and-swap. If that succeeds, the difference is the agent's to count.
//! - A program that sees the end of a marked record replaces the state by [`State::ENDED`] in one step, counts what exceeds the
//!   part that it pointed to, and frees the record. From then on the agent's compare-and-swap fails.

use crate::socket::{SOCKET_SETS, WAYS};

/// As many as there are records in the socket table.
pub const PLACES: u32 = SOCKET_SETS * WAYS as u32;

/// The place of a record: of its set, and within that.
#[inline(always)]
#[must_use]
pub const fn place(set: u32, way: u32) -> u32 {
    set * WAYS as u32 + way
}

/// What was counted of a connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// In bytes.
    pub sent: u64,
    /// In bytes.
    pub received: u64,
    /// In segments.
    pub retransmitted: u64,
}

impl Part {
    /// Adds that of another connection.
    pub const fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.retransmitted += other.retransmitted;
    }
}

/// Which of the two parts is valid, and whether the connection has ended.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State(pub u64);

impl State {
    /// A program has seen the end: it has used the part that was valid.
    pub const ENDED: u64 = 1 << 1;
    const SECOND: u64 = 1;

    /// The index of the valid part.
    #[inline(always)]
    #[must_use]
    pub const fn valid(self) -> usize {
        (self.0 & Self::SECOND) as usize
    }

    #[inline(always)]
    #[must_use]
    pub const fn has_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }

    /// With the other part.
    #[must_use]
    pub const fn other(self) -> Self {
        Self(self.0 ^ Self::SECOND)
    }
}

/// What is counted of the connection whose record is at the same place of the socket table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartlyCounted {
    pub state: State,
    pub parts: [Part; 2],
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Part {}
// SAFETY: one integer.
#[cfg(feature = "user")]
unsafe impl aya::Pod for State {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PartlyCounted {}

const _: () = assert!(size_of::<PartlyCounted>() == 56);
const _: () = assert!(PLACES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_which_part_is_valid_and_whether_the_connection_has_ended() {
        let first = State::default();
        assert_eq!((first.valid(), first.other().valid(), first.other().other()), (0, 1, first));
        let ended = State(first.other().0 | State::ENDED);
        assert!(ended.has_ended() && !first.other().has_ended());
        assert_eq!(ended.valid(), 1);
    }
}
