//! The names of services, kept beside the other maps so that a node can be read without its agent.
//!
//! A name is `namespace NUL name NUL port name NUL protocol`, cut into chunks so that
//! memory follows the length of real names and not of the longest possible one.

use crate::id::ServiceId;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NameKey {
    pub service: ServiceId,
    pub chunk: u32,
}

/// Bytes per chunk; the last one is filled up with NUL.
pub const CHUNK: usize = 64;

/// Entries that the first names hash has room for; the agent, which alone uses it, replaces it by a
/// larger one before it is full.
pub const FIRST_NAMES: u32 = 4096;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for NameKey {}

const _: () = assert!(size_of::<NameKey>() == 8);
