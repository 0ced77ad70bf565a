//! The frontends hash and the bitmap in front of it.
//!
//! The hash is replaced by one of twice the size before it is three quarters full: the copy is
//! made beside the old one and put in its place with one write, so connects never miss an entry.

use std::{collections::HashMap, os::fd::AsFd as _};

use aya::maps::{IterableMap as _, Map, MapData, MapError};
use sockline_ebpf::{
    filter,
    frontend::{CURRENT, FIRST_CAPACITY, Frontend, FrontendKey},
};

use super::{FRONTENDS, FrontendsHash};
use crate::{
    bpf::{
        error::Full,
        kinds::{
            array_of_maps::{ArrayOfMaps, Repaired},
            hash,
        },
        mmap::{Access, SharedArray},
    },
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

/// The frontends in the kernel, and a copy of them here.
pub struct Frontends {
    array: ArrayOfMaps,
    current: FrontendsHash,
    capacity: u32,
    limit: u32,
    entries: HashMap<FrontendKey, Frontend>,
    filter: SharedArray<u64>,
    /// How many entries set a bit of the filter.
    bits: HashMap<(u32, u64), u32>,
}

/// How the hash and the bitmap differ from what they should hold.
#[derive(Debug, Default)]
pub struct Differences {
    pub missing: Vec<Frontend>,
    /// With the entries as they should be.
    pub changed: Vec<Frontend>,
    pub foreign: Vec<FrontendKey>,
    pub filter_words: usize,
}

impl Frontends {
    /// Opens the pinned maps and reads them.
    pub fn open(pins: &Pins, limit: u32) -> Result<Self, DataplaneError> {
        let array = maps::open_frontends(pins, Access::Write)?;
        let current = match maps::current_frontends(&array)? {
            Some(current) => current,
            None => {
                let first = maps::new_frontends(FIRST_CAPACITY.min(limit.max(1)))?;
                array.set(CURRENT, &first)?;
                typed(first)?
            }
        };
        let capacity = capacity_of(&current)?;
        let mut entries = HashMap::new();
        hash::for_each(FRONTENDS, &current, |key: &FrontendKey, values: &[Frontend]| {
            entries.extend(values.iter().map(|value| (*key, *value)));
        })?;
        let mut this = Self {
            array,
            current,
            capacity,
            limit,
            entries,
            filter: maps::open_filter(pins)?,
            bits: HashMap::new(),
        };
        for key in this.entries.keys().filter(|key| !key.is_node_mark()) {
            *this.bits.entry(filter::bit(&key.address, key.port)).or_default() += 1;
        }
        this.write_filter();
        Ok(this)
    }

    pub const fn entries(&self) -> &HashMap<FrontendKey, Frontend> {
        &self.entries
    }

    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Writes the entries of one service: all of them, or none. Each changes in one atomic step for
    /// programs.
    pub fn set_all(&mut self, frontends: &[Frontend]) -> Result<(), DataplaneError> {
        let mut before: Vec<(FrontendKey, Option<Frontend>)> = Vec::with_capacity(frontends.len());
        let (known, new): (Vec<&Frontend>, Vec<&Frontend>) =
            frontends.iter().partition(|frontend| self.entries.contains_key(&frontend.key));
        // New entries first: removing them again needs no memory.
        for frontend in new.into_iter().chain(known) {
            let old = self.entries.get(&frontend.key).copied();
            if let Err(error) = self.set(*frontend) {
                self.put_back(before);
                return Err(error);
            }
            before.push((frontend.key, old));
        }
        Ok(())
    }

    fn put_back(&mut self, before: Vec<(FrontendKey, Option<Frontend>)>) {
        for (key, old) in before.into_iter().rev() {
            let result = match old {
                Some(old) => self.set(old),
                None => self.remove(&key),
            };
            if let Err(error) = result {
                // The copy in this process has what is there, and the service is tried again as a
                // whole.
                tracing::error!("a frontend is ahead of others of its service: {error}");
            }
        }
    }

    /// Writes an entry.
    fn set(&mut self, frontend: Frontend) -> Result<(), DataplaneError> {
        let known = self.entries.get(&frontend.key);
        if known == Some(&frontend) {
            return Ok(());
        }
        let is_new = known.is_none();
        if is_new {
            self.reserve(1)?;
            self.set_bit(&frontend.key);
        }
        if let Err(error) = hash::insert(&mut self.current, &frontend.key, &frontend, 0) {
            if is_new {
                self.clear_bit(&frontend.key);
            }
            return Err(DataplaneError::write(FRONTENDS, self.capacity, error));
        }
        self.entries.insert(frontend.key, frontend);
        Ok(())
    }

    pub fn remove(&mut self, key: &FrontendKey) -> Result<(), DataplaneError> {
        if !self.entries.contains_key(key) {
            return Ok(());
        }
        match self.current.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(DataplaneError::map(FRONTENDS, "write", error)),
        }
        self.entries.remove(key);
        self.clear_bit(key);
        Ok(())
    }

    /// Compares some entries with what is in the kernel.
    pub fn compare<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a FrontendKey>,
        differences: &mut Differences,
    ) -> Result<(), DataplaneError> {
        for wanted in keys.into_iter().filter_map(|key| self.entries.get(key)) {
            match self.current.get(&wanted.key, 0) {
                Ok(found) if found == *wanted => {}
                Ok(_) => differences.changed.push(*wanted),
                Err(MapError::KeyNotFound) => differences.missing.push(*wanted),
                Err(error) => return Err(DataplaneError::map(FRONTENDS, "read", error)),
            }
        }
        Ok(())
    }

    /// Finds entries that are in no plan.
    pub fn find_foreign(&self, differences: &mut Differences) -> Result<(), DataplaneError> {
        hash::for_each(FRONTENDS, &self.current, |key: &FrontendKey, _: &[Frontend]| {
            if !self.entries.contains_key(key) {
                differences.foreign.push(*key);
            }
        })?;
        Ok(())
    }

    /// Compares the bitmap.
    pub fn compare_filter(&self, differences: &mut Differences) {
        let words = self.wanted_filter();
        let differs = |&(index, &word): &(usize, &u64)| self.filter.read(index) != word;
        differences.filter_words = words.iter().enumerate().filter(differs).count();
    }

    /// Repairs differences.
    pub fn repair(&mut self, differences: &Differences) -> Result<(), DataplaneError> {
        for value in differences.missing.iter().chain(&differences.changed) {
            self.current
                .insert(value.key, value, 0)
                .map_err(|error| DataplaneError::map(FRONTENDS, "write", error))?;
        }
        for key in &differences.foreign {
            match self.current.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DataplaneError::map(FRONTENDS, "write", error)),
            }
        }
        if differences.filter_words > 0 {
            self.write_filter();
        }
        Ok(())
    }

    /// See [`ArrayOfMaps::repair`].
    pub fn repair_arrays(&self) -> Result<Repaired, DataplaneError> {
        Ok(self.array.repair()?)
    }

    /// See [`ArrayOfMaps::displaced`].
    pub fn displaced(&self) -> Result<usize, DataplaneError> {
        Ok(self.array.displaced()?)
    }

    /// Makes room for this many more entries.
    pub fn reserve(&mut self, more: usize) -> Result<(), DataplaneError> {
        let needed = u32::try_from(self.entries.len() + more).unwrap_or(u32::MAX);
        if more > 0 && needed > self.limit {
            return Err(Full { map: FRONTENDS, limit: self.limit }.into());
        }
        let mut capacity = self.capacity;
        while needed > capacity / 4 * 3 && capacity < self.limit {
            capacity = capacity.saturating_mul(2).min(self.limit);
        }
        if capacity == self.capacity {
            return Ok(());
        }
        match self.grow(capacity) {
            // There is some room left; the next one tries again.
            Err(error) if needed <= self.capacity => {
                tracing::debug!("map `{FRONTENDS}` cannot grow yet: {error}");
                Ok(())
            }
            result => result,
        }
    }

    fn grow(&mut self, capacity: u32) -> Result<(), DataplaneError> {
        let larger = maps::new_frontends(capacity)?;
        let mut copy = typed(duplicate(&larger)?)?;
        for (key, value) in &self.entries {
            hash::insert(&mut copy, key, value, 0)
                .map_err(|error| DataplaneError::map(FRONTENDS, "copy to a larger", error))?;
        }
        self.array.set(CURRENT, &larger)?;
        self.current = copy;
        self.capacity = capacity;
        Ok(())
    }

    /// Counts one more frontend for its bit, and sets the bit with the first.
    fn set_bit(&mut self, key: &FrontendKey) {
        // Programs look these up without the bitmap.
        if key.is_node_mark() {
            return;
        }
        let (word, mask) = filter::bit(&key.address, key.port);
        let count = self.bits.entry((word, mask)).or_default();
        *count += 1;
        if *count == 1 {
            self.change_filter(word as usize, |word| word | mask);
        }
    }

    /// Counts one frontend less for its bit, and clears the bit with the last.
    fn clear_bit(&mut self, key: &FrontendKey) {
        if key.is_node_mark() {
            return;
        }
        let (word, mask) = filter::bit(&key.address, key.port);
        let count = self.bits.entry((word, mask)).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.bits.remove(&(word, mask));
            self.change_filter(word as usize, |word| word & !mask);
        }
    }

    fn change_filter(&self, index: usize, change: impl FnOnce(u64) -> u64) {
        self.filter.store(index, change(self.filter.load(index)));
    }

    /// Writes the filter for the entries. Bits are set before others are cleared, so that no entry
    /// is ever hidden.
    fn write_filter(&mut self) {
        for (index, &wanted) in self.wanted_filter().iter().enumerate() {
            if self.filter.read(index) != wanted {
                self.change_filter(index, |word| word | wanted);
                self.change_filter(index, |_| wanted);
            }
        }
    }

    /// The filter's words for the entries.
    fn wanted_filter(&self) -> Vec<u64> {
        let mut words = vec![0u64; filter::WORDS as usize];
        for (word, mask) in self.bits.keys() {
            words[*word as usize] |= mask;
        }
        words
    }
}

fn typed(hash: MapData) -> Result<FrontendsHash, DataplaneError> {
    Map::HashMap(hash).try_into().map_err(|error| DataplaneError::map(FRONTENDS, "open", error))
}

fn duplicate(hash: &MapData) -> Result<MapData, DataplaneError> {
    let fd = hash
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| DataplaneError::io("duplicate a file descriptor", error))?;
    MapData::from_fd(fd).map_err(|error| DataplaneError::map(FRONTENDS, "open", error))
}

fn capacity_of(hash: &FrontendsHash) -> Result<u32, DataplaneError> {
    let info = hash.map().info().map_err(|error| DataplaneError::map(FRONTENDS, "read", error))?;
    Ok(info.max_entries())
}
