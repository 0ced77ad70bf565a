//! Reads of a node: frontends, backends, counters, usage of the maps, records of sockets.
//!
//! [`snapshot`] reads the pinned maps with or without a running agent, [`translation`] the record of one socket.
//! [`counters`], [`clients`], [`map_usage`] (a scan of the maps that programs write), [`overflow`] and [`sockets`] run
//! beside the control loop, the only writer. [`replaced`] reads the counts of another layout.

pub mod clients;
pub mod counters;
pub mod events;
pub mod map_usage;
pub mod overflow;
pub mod replaced;
pub mod snapshot;
pub mod sockets;
pub mod translation;
