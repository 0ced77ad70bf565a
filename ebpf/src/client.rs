//! What is counted of the connections of one client to one service port, when they end.
//!
//! A client is a cgroup: a container of a pod, or a process of the node.

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

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClientCounts {}

const _: () = assert!(size_of::<ClientCounts>() == 48);
