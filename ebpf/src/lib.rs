//! The layouts of the maps that the kernel programs and the agent share.
//!
//! Everything here is `#[repr(C)]` without implicit padding, and its size is asserted: the two
//! sides are compiled for different targets and may even be of different releases, since pinned
//! maps outlive an agent. Changing any of it means raising [`LAYOUT_VERSION`].
#![cfg_attr(not(test), no_std)]

pub mod about;
pub mod address;
pub mod agent;
pub mod agent_state;
pub mod backend;
mod byte_enum;
pub mod carried;
pub mod client;
pub mod counters;
pub mod debug_log;
pub mod event;
pub mod exclusion;
pub mod filter;
pub mod frontend;
pub mod id;
pub mod name;
pub mod namespaces;
pub mod partly_counted;
pub mod socket;
pub mod telemetry;
pub mod traffic_class;

/// The version of all layouts together. It names the pin directory, so that agents of different
/// layouts never open each other's maps.
///
/// The feature `test-layout` makes another layout of the same contents, for tests of upgrades:
/// fields lie elsewhere, so that reading the other layout's maps gives nonsense.
pub const LAYOUT_VERSION: u32 = 5 + if cfg!(feature = "test-layout") { 1000 } else { 0 };

/// `BPF_F_NO_PREALLOC`: hash entries are allocated when they are made, so that memory follows use.
pub const NO_PREALLOC: usize = 1;

/// `BPF_F_MMAPABLE` (Linux 5.5): the agent maps the array and writes it without system calls.
pub const MMAPABLE: usize = 1 << 10;
