//! How much room each cgroup's sockets take beyond the socket table.

use std::path::{Path, PathBuf};

use sockline_ebpf::socket::{
    CGROUP_UNITS, OVERFLOW_UNITS, OverflowCount, ROOT_CGROUP, STORAGE_UNITS, WHOLE, place_of,
};

use crate::{
    bpf::{kinds::growable_hash::MapUsage, mmap::SharedArray},
    cgroups,
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

/// The counts by cgroup, mapped into memory.
pub struct OverflowUsage {
    words: SharedArray<u64>,
}

/// A cgroup that reached its limit: some of its sockets have no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    pub cgroup: u64,
    /// Below the agent's cgroup; `None` if it is gone or not visible.
    pub path: Option<PathBuf>,
    /// What its sockets have now.
    pub units: u64,
    /// How many sockets got no record since the maps were created.
    pub refused: u64,
}

impl OverLimit {
    /// Whether the next socket gets no record either.
    pub const fn is_at_limit(&self) -> bool {
        self.cgroup != ROOT_CGROUP && self.units + STORAGE_UNITS > CGROUP_UNITS
    }
}

impl OverflowUsage {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { words: maps::open_overflow_counts(pins)? })
    }

    fn of(&self, place: u32) -> OverflowCount {
        let word = |number: usize| self.words.load(first_word(place) + number);
        OverflowCount {
            units: word(0),
            refused: word(1),
            cgroup: word(2),
            has_kernel_storage: word(3),
        }
    }

    /// Of what all sockets together may take.
    pub fn usage(&self) -> MapUsage {
        let limit = OVERFLOW_UNITS.into();
        MapUsage { entries: self.of(WHOLE).units, capacity: limit, limit }
    }

    /// Frees the room of a socket that no program will free.
    pub fn give_back(&self, cgroup: u64, units: u64) {
        for place in [WHOLE, place_of(cgroup)] {
            self.words.subtract(first_word(place), units);
        }
    }

    /// The cgroups that ever reached a limit. `top` is the cgroup that they are below.
    pub fn over_limit(&self, top: &Path) -> Vec<OverLimit> {
        let counts = (0..maps::OVERFLOW_PLACES).map(|place| self.of(place));
        let mut over: Vec<OverLimit> = counts
            .filter(|count| count.refused > 0)
            .map(|count| OverLimit {
                cgroup: count.cgroup,
                path: None,
                units: count.units,
                refused: count.refused,
            })
            .collect();
        if !over.is_empty() {
            let paths = cgroups::paths_of(top, over.iter().map(|one| one.cgroup));
            over.iter_mut().for_each(|one| one.path = paths.get(&one.cgroup).cloned());
        }
        over
    }
}

const fn first_word(place: u32) -> usize {
    place as usize * (size_of::<OverflowCount>() / size_of::<u64>())
}
