//! Events: what happened to connections, in a ring buffer, for as long as a client watches.

use crate::{
    address::Address,
    byte_enum::byte_enum,
    id::{BackendId, ServiceId},
};

byte_enum! {
    /// What happened.
    pub enum EventKind {
        /// A backend was chosen for a connection or a flow. `detail` is 1 if its end will not be seen.
        Opened = 1,
        /// A connection or a flow ended. `detail` is the [`crate::telemetry::End`].
        Ended = 2,
        /// A call was refused. `detail` is the [`crate::frontend::Reason`].
        Refused = 3,
    }
}

/// One event.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time: u64,
    /// The cgroup of the process that opened the connection; 0 if it did while no events were written.
    pub cgroup: u64,
    /// As [`crate::telemetry::ConnectionCounts::sent`].
    pub sent: u64,
    pub received: u64,
    /// From the connect to the end, in jiffies.
    pub lifetime: u64,
    /// The address that was dialled; unspecified for an end.
    pub service_address: Address,
    /// Unspecified if the call was refused, if the backend was removed meanwhile, and at the end of a flow.
    pub backend_address: Address,
    pub service: ServiceId,
    /// 0 if the call was refused.
    pub backend: BackendId,
    /// Of the backend.
    pub generation: u32,
    /// The process that made the call, in the initial PID namespace: the one that connected, or that closed the socket.
    pub pid: u32,
    /// In eighths of a microsecond; 0 if it was not measured.
    pub round_trip: u32,
    pub retransmitted: u32,
    /// Network byte order.
    pub service_port: u16,
    /// Network byte order.
    pub backend_port: u16,
    /// An [`EventKind`].
    pub kind: u8,
    /// A [`crate::frontend::Protocol`].
    pub protocol: u8,
    /// What it is depends on the kind.
    pub detail: u8,
    pub padding: u8,
    /// The name of the process, filled up with NUL.
    pub comm: [u8; 16],
}

/// The ring buffer: some 4,000 events. It is charged to the agent's container.
pub const RING_BYTES: u32 = 512 << 10;

/// Events that a CPU writes in a window; others are counted only.
pub const BUDGET: u64 = 1024;
/// A window is 2 to this many nanoseconds: 67 ms.
pub const WINDOW_SHIFT: u32 = 26;

/// What became of the events of one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCounts {
    pub written: u64,
    /// There was no room in the ring buffer.
    pub lost: u64,
    /// The CPU had used up its budget.
    pub sampled: u64,
    /// The number of the latest window.
    pub window: u64,
    /// Events of that window.
    pub used: u64,
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for EventCounts {}

const _: () = assert!(size_of::<Event>() == 120);
const _: () = assert!(size_of::<EventCounts>() == 40);
const _: () = assert!(RING_BYTES.is_power_of_two());
