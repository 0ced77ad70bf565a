//! What is kept about a socket, and about a client's session affinity.

use crate::address::Address;

/// One translation of one socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketRecord {
    /// The address that the socket asked for.
    #[cfg(not(feature = "test-layout"))]
    pub service_address: Address,
    /// The address that it got.
    pub backend_address: Address,
    #[cfg(feature = "test-layout")]
    pub service_address: Address,
    /// Network byte order.
    pub service_port: u16,
    /// Network byte order.
    pub backend_port: u16,
    pub service: u32,
    pub backend: u32,
    /// Of the backend entry, when it was chosen.
    pub generation: u32,
    /// In jiffies since boot (`bpf_jiffies64`).
    pub since: u64,
    /// TCP or UDP; 0 in what programs from before this field wrote.
    pub protocol: u64,
}

/// A cookie that no socket has: of a record that is being written.
pub const CLAIMED: u64 = u64::MAX;

/// Records that share an index of the socket table: as many as there are cookies in a cache line.
pub const WAYS: usize = 8;

/// The records of all sockets whose cookie has the same low bits. Finding out that a socket has
/// none costs one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketSet {
    /// Whose record is at the same place of `records`; 0 is a free one, see also [`CLAIMED`].
    pub cookies: [u64; WAYS],
    pub records: [SocketRecord; WAYS],
}

/// Sets in the socket table: 32,768 records in 2.3 MB. A socket that finds its set full goes to
/// socket storage, which is as exact and costs about 1,200 ns more when it is made, 200 when it ends.
pub const SOCKET_SETS: u32 = 4096;

/// Records of one socket in socket storage. An unconnected UDP socket that talks to more services
/// than this (and its set) at once forgets the oldest.
pub const STORED: usize = 8;

/// Connected sockets with a record in socket storage that may be noted, so that the agent can find
/// them: all that are translated before Linux 5.12, else those that found their set of the table full.
/// What is there takes memory; that there may be so many takes 1 MiB (16 bytes each).
pub const NOTED_SOCKETS: u32 = 65_536;

/// The value of socket storage.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoredRecords {
    /// 1 where the record at the same place is in use.
    pub used: [u64; STORED],
    pub records: [SocketRecord; STORED],
}

/// A client, as session affinity tells clients apart: by network namespace, since no source
/// address exists yet when a socket connects.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey {
    /// `SO_NETNS_COOKIE` of the client.
    pub netns: u64,
    pub service: u32,
    /// 4 or 6: the two families of a service have different backends. In the upper half
    /// [`crate::frontend::Frontend::node`].
    pub family: u32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    pub backend: u32,
    pub generation: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub last_use: u64,
}

/// Clients × services whose affinity is kept unless the agent is told otherwise; the least recently
/// used are dropped. There is memory for all of them from the start, some 100 bytes each.
pub const AFFINITY_ENTRIES: u32 = 32_768;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SocketRecord {}
// SAFETY: integers and records, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SocketSet {}
// SAFETY: integers and records, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for StoredRecords {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AffinityKey {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Affinity {}

const _: () = assert!(size_of::<SocketRecord>() == 64);
const _: () = assert!(size_of::<SocketSet>() == 576);
const _: () = assert!(size_of::<AffinityKey>() == 16);
const _: () = assert!(size_of::<Affinity>() == 16);
const _: () = assert!(size_of::<StoredRecords>() == 576);
const _: () = assert!(SOCKET_SETS.is_power_of_two());
