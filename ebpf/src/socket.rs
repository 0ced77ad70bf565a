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
    pub reserved: u64,
}

impl SocketRecord {
    /// A record as it lies in memory; `None` from fewer bytes than it has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut word = || -> Option<u32> {
            let (word, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u32::from_ne_bytes(*word))
        };
        let service_address = Address { words: [word()?, word()?, word()?, word()?] };
        let backend_address = Address { words: [word()?, word()?, word()?, word()?] };
        let [a, b, c, d] = word()?.to_ne_bytes();
        let (service, backend, generation) = (word()?, word()?, word()?);
        let mut long = || -> Option<u64> {
            let (long, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_ne_bytes(*long))
        };
        Some(Self {
            service_address,
            backend_address,
            service_port: u16::from_ne_bytes([a, b]),
            backend_port: u16::from_ne_bytes([c, d]),
            service,
            backend,
            generation,
            since: long()?,
            reserved: long()?,
        })
    }
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
/// socket storage, which is as exact and costs about 600 ns more when it is made.
pub const SOCKET_SETS: u32 = 4096;

/// Records of one socket in socket storage. An unconnected UDP socket that talks to more services
/// than this (and its set) at once forgets the oldest.
pub const STORED: usize = 8;

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
    /// 4 or 6: the two families of a service have different backends.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_lies_in_memory() {
        let record = SocketRecord {
            service_address: Address { words: [1, 2, 3, 4] },
            backend_address: Address { words: [5, 6, 7, 8] },
            service_port: 9,
            backend_port: 10,
            service: 11,
            backend: 12,
            generation: 13,
            since: 14,
            reserved: 15,
        };
        // SAFETY: integers without padding, asserted above; the array is of its very size.
        let bytes: [u8; size_of::<SocketRecord>()] = unsafe { core::mem::transmute(record) };
        assert_eq!(SocketRecord::from_bytes(&bytes), Some(record));
        assert_eq!(SocketRecord::from_bytes(&bytes[1..]), None);
    }
}
