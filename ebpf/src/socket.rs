//! What is kept about a socket, and about a client's session affinity.

pub use crate::about::About;
use crate::{
    address::Address,
    backend::{BACKEND_SEGMENT, BACKEND_SEGMENTS},
    frontend::Protocol,
    id::{BackendId, BackendKey, ServiceId},
};

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
    pub service: ServiceId,
    pub backend: BackendId,
    /// Of the backend entry, when it was chosen.
    pub generation: u32,
    /// In jiffies since boot (`bpf_jiffies64`).
    pub since: u64,
    pub about: About,
}

impl SocketRecord {
    /// `None` in what no program wrote.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        self.about.protocol()
    }

    #[inline(always)]
    #[must_use]
    pub const fn backend_key(&self) -> BackendKey {
        BackendKey::new(self.backend, self.generation)
    }

    /// Whether it is of the same translation: the agent may have marked one of them as partly counted.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let unmarked = |record: &Self| Self { about: record.about.unmarked(), ..*record };
        unmarked(self) == unmarked(other)
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

/// Sets in the socket table: 32,768 records in 2.3 MB. A socket that finds its set full has its record
/// in the overflow hash, which is as exact and costs some 300 ns more when it is made, 100 when it ends.
pub const SOCKET_SETS: u32 = 4096;

/// Records of one UDP socket in socket storage: of one that needs a second record beside that in the
/// overflow hash. One that talks to more services than this (and its set) at once forgets the oldest.
pub const STORAGE_RECORDS: usize = 8;

/// What a socket has beyond the table, and who is charged for it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverflowEntry {
    /// The socket's cookie, or 1 in socket storage; 0 is free, see also [`CLAIMED`].
    pub owner: u64,
    pub record: SocketRecord,
    /// The cgroup of the process that made it, to which its units return when any process closes it.
    pub cgroup: u64,
    /// In the unit of [`OVERFLOW_UNITS`]; 0 is nothing yet.
    pub units: u64,
}

/// What all sockets together may take beyond the table. A unit is at most 192 bytes of kernel memory,
/// so that all of it is 25 MB, and 2 MiB for the hash itself (16 bytes for each entry).
pub const OVERFLOW_UNITS: u32 = 131_072;
/// What the sockets of one cgroup may take of that; those of the host's root cgroup may take all.
pub const CGROUP_UNITS: u64 = 32_768;

/// An entry of the overflow hash: 152 bytes with the kernel's part, in a slab of 192.
pub const RECORD_UNITS: u64 = 1;
/// One record in socket storage: 168 bytes, and 200 for what a socket's storages begin with.
pub const CONNECTION_UNITS: u64 = 3;
/// [`StorageRecords`] in socket storage: 656 bytes in a slab of 1,024, and the same 200.
pub const STORAGE_UNITS: u64 = 8;

/// What was taken beyond the table: by all, or by the cgroups that share a place.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverflowCount {
    pub units: u64,
    /// Sockets that were not remembered because of a limit.
    pub refused: u64,
    /// Of the latest of them.
    pub cgroup: u64,
    /// Of all: 1 once there is socket storage of the kernel's own sockets, which nobody counts.
    pub has_kernel_storage: u64,
}

/// Places for cgroups, by the lower bits of their ids: those are numbers in a row, so that two cgroups
/// of a node share one only after as many others were made between them.
pub const CGROUP_COUNTS: u32 = 4096;
/// Where all are counted together.
pub const WHOLE: u32 = CGROUP_COUNTS;
/// Where the sockets of the host's root cgroup are counted.
pub const HOST: u32 = CGROUP_COUNTS + 1;

/// Where a cgroup is counted.
#[inline(always)]
#[must_use]
pub const fn place_of(cgroup: u64) -> u32 {
    if cgroup == ROOT_CGROUP { HOST } else { (cgroup % CGROUP_COUNTS as u64) as u32 }
}

/// The id of the root of the cgroup v2 hierarchy (`kernfs`).
pub const ROOT_CGROUP: u64 = 1;

/// The value of a UDP socket's storage.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StorageRecords {
    /// 1 where the record at the same place is in use.
    pub used: [u64; STORAGE_RECORDS],
    pub records: [SocketRecord; STORAGE_RECORDS],
}

/// A client, as session affinity tells clients apart: by network namespace, since no source
/// address exists yet when a socket connects.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey {
    /// `SO_NETNS_COOKIE` of the client.
    pub netns: u64,
    pub service: ServiceId,
    /// 4 or 6: the two families of a service have different backends. In the upper half
    /// [`crate::frontend::Frontend::node`].
    pub family: u32,
}

/// The value of the affinity map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// A copy of the key, first because the kernel writes it first: an LRU hash gives an element to
    /// another key while a program still looks at it (`prealloc_lru_pop`).
    pub key: AffinityKey,
    pub choice: Choice,
}

/// A client's backend and when the client last used it, in one word: it changes as a whole, so that
/// of two calls that want to change it only one does.
///
/// From the lowest bit: 22 of the backend's id, 16 of its generation, 26 of the time.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice(pub u64);

impl Choice {
    const GENERATION: u32 = 22;
    const TIME: u32 = 38;
    /// A unit of time is 2^26 ns, 67 ms. The clock of 26 bits goes round in 52 days.
    const UNIT: u32 = 26;
    const TIME_MASK: u64 = (1 << (64 - Self::TIME)) - 1;

    /// `now` is in nanoseconds (`CLOCK_MONOTONIC`).
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: BackendId, generation: u32, now: u64) -> Self {
        let choice = (generation as u64 & 0xffff) << Self::GENERATION
            | (backend.0 as u64 & ((1 << Self::GENERATION) - 1));
        Self(choice | (now >> Self::UNIT) << Self::TIME)
    }

    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> BackendId {
        BackendId((self.0 & ((1 << Self::GENERATION) - 1)) as u32)
    }

    /// Whether a backend entry of this generation can be meant.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, generation: u32) -> bool {
        (self.0 >> Self::GENERATION) as u16 == generation as u16
    }

    /// The same backend, used now.
    #[inline(always)]
    #[must_use]
    pub const fn used(self, now: u64) -> Self {
        Self(self.0 & ((1 << Self::TIME) - 1) | (now >> Self::UNIT) << Self::TIME)
    }

    /// For how long the client was idle, in nanoseconds: never too long, and short by up to two units.
    /// A use that seems to be later than `now` (another CPU may have been faster) is now.
    #[inline(always)]
    #[must_use]
    pub const fn idle(self, now: u64) -> u64 {
        let units = (now >> Self::UNIT).wrapping_sub(self.0 >> Self::TIME) & Self::TIME_MASK;
        if units == 0 || units > Self::TIME_MASK / 2 { 0 } else { (units - 1) << Self::UNIT }
    }
}

/// Clients × services whose affinity is kept by default (`--max-affinity`); the least recently
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
unsafe impl aya::Pod for StorageRecords {}
// SAFETY: integers and records, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for OverflowEntry {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for OverflowCount {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AffinityKey {}
// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Affinity {}

const _: () = assert!(size_of::<SocketRecord>() == 64);
const _: () = assert!(size_of::<SocketSet>() == 576);
const _: () = assert!(size_of::<AffinityKey>() == 16);
const _: () = assert!(size_of::<Affinity>() == 24);
const _: () = assert!(size_of::<StorageRecords>() == 576);
const _: () = assert!(size_of::<OverflowEntry>() == 88);
const _: () = assert!(size_of::<OverflowCount>() == 32);
const _: () = assert!(SOCKET_SETS.is_power_of_two());
const _: () = assert!(BACKEND_SEGMENT * BACKEND_SEGMENTS == 1 << Choice::GENERATION);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_choice_keeps_its_backend_and_the_time_of_its_last_use() {
        for (backend, generation) in [(0, 0), (4_194_303, 65_535), (77, 1_000_000)] {
            let choice = Choice::new(BackendId(backend), generation, 5 * SECOND).used(90 * SECOND);
            assert_eq!(choice.backend(), BackendId(backend));
            assert!(choice.is_of(generation) && !choice.is_of(generation + 1));
            let idle = choice.idle(100 * SECOND);
            assert!((9 * SECOND..=10 * SECOND).contains(&idle), "{idle}");
        }
    }

    /// An underflow took every affinity for expired that another CPU had just renewed.
    #[test]
    fn a_use_that_is_later_than_now_is_not_long_ago() {
        let choice = Choice::new(BackendId(1), 1, 10 * SECOND);
        assert_eq!(choice.idle(10 * SECOND - 1), 0);
        assert_eq!(choice.idle(9 * SECOND), 0);
    }

    #[test]
    fn no_client_is_ever_taken_for_idle_too_early() {
        for used in (0..20).map(|n| n * 12_345_678_901) {
            for idle in [0, 1, 66_999_999, 134_217_728, SECOND, 86_400 * SECOND] {
                assert!(Choice::new(BackendId(3), 3, used).idle(used + idle) <= idle);
            }
            assert!(Choice::new(BackendId(3), 3, used).idle(used + SECOND) > 800_000_000);
        }
    }
}
