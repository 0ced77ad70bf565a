//! Reads of a node: frontends, backends, counters, usage of the maps, records of sockets.
//!
//! [`snapshot`] reads the pinned maps with or without a running agent. The others run beside the control loop,
//! the only writer.

pub mod map_usage;
pub mod overflow;
pub mod snapshot;
pub mod sockets;
