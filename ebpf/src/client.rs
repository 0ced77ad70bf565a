//! What is counted of the connections of one client to one service port, when they end.
//!
//! A client is a cgroup: a container of a pod, or a unit or session of the node (systemd). A container that makes cgroups of
//! its own is several.

use crate::id::ServiceId;

/// A client of a service port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientKey {
    /// The id of the cgroup that the client was in when it connected; 0 if that is not known.
    pub cgroup: u64,
    pub service: ServiceId,
    /// 0: the kernel compares all bytes of a key.
    pub padding: u32,
}

impl ClientKey {
    #[inline(always)]
    #[must_use]
    pub const fn new(cgroup: u64, service: ServiceId) -> Self {
        Self { cgroup, service, padding: 0 }
    }
}

/// Connections and flows that ended.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientCounts {
    /// All that ended, in whichever way.
    pub closed: u64,
    /// Of these, those that were never established.
    pub failed: u64,
    /// Bytes that the client wrote to established connections.
    pub sent: u64,
    /// Bytes that came from the backends.
    pub received: u64,
    /// Segments that the client's side sent again.
    pub retransmitted: u64,
    /// Established connections that ended without a byte from the backend, though the client had sent some.
    pub unanswered: u64,
}

impl ClientCounts {
    pub const NONE: Self =
        Self { closed: 0, failed: 0, sent: 0, received: 0, retransmitted: 0, unanswered: 0 };

    /// Adds those of another client or service.
    pub const fn add(&mut self, other: &Self) {
        self.closed += other.closed;
        self.failed += other.failed;
        self.sent += other.sent;
        self.received += other.received;
        self.retransmitted += other.retransmitted;
        self.unanswered += other.unanswered;
    }
}

/// Of all clients: the only entry of its map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientTotals {
    /// Entries that programs made, without those that the agent removed. What the map has less was evicted.
    pub made: u64,
}

/// Clients × services that are counted by default (`--max-clients`); of those beyond, the least recently used are
/// dropped. There is memory for all of them from the start, some 130 bytes each.
pub const CLIENT_ENTRIES: u32 = 16_384;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClientKey {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClientCounts {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClientTotals {}

const _: () = assert!(size_of::<ClientKey>() == 16);
const _: () = assert!(size_of::<ClientTotals>() == 8);
const _: () = assert!(size_of::<ClientCounts>() == 48);
