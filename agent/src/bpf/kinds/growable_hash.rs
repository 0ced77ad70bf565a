//! Hashes that no program reads, and that grow: one that is nearly full is copied to one of twice the size, which
//! replaces it at the pin in one step. Readers open such a map each time.

use std::{os::fd::AsFd as _, path::PathBuf};

use aya::{
    Pod,
    maps::{HashMap, IterableMap, Map, MapData, MapError},
};

use super::{
    create,
    hash::{self, NEW},
};
use crate::bpf::{
    error::BpfError,
    pin::{self, Id},
};

/// `BPF_EXIST`: only an entry that is there.
const KNOWN: u64 = 2;

/// A pinned hash that this process alone writes.
pub struct GrowableHash<K: Pod, V: Pod> {
    name: &'static str,
    pin: PathBuf,
    map: HashMap<MapData, K, V>,
    entries: u32,
    capacity: u32,
    limit: u32,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapUsage {
    pub entries: u64,
    /// Entries that it may have now.
    pub capacity: u64,
    /// Entries that it may grow to.
    pub limit: u64,
}

impl<K: Pod, V: Pod> GrowableHash<K, V> {
    /// Opens the pinned hash. It may grow to `limit` entries; entries above that stay.
    pub fn open(name: &'static str, pin: PathBuf, limit: u32) -> Result<Self, BpfError> {
        let map = MapData::from_pin(&pin).map_err(|error| BpfError::map(name, "open", error))?;
        let (map, capacity) = typed(name, map)?;
        let mut entries = 0;
        hash::for_each(name, &map, |_: &K, _: &[V]| entries += 1)?;
        Ok(Self { name, pin, map, entries, capacity, limit })
    }

    pub fn usage(&self) -> MapUsage {
        MapUsage {
            entries: self.entries.into(),
            capacity: self.capacity.into(),
            limit: self.limit.max(self.capacity).into(),
        }
    }

    /// Pins it again if it has lost its pin; returns whether it had.
    pub fn repair_pin(&self) -> Result<bool, BpfError> {
        let map = self.map.map();
        let info = map.info().map_err(|error| BpfError::map(self.name, "read", error))?;
        pin::ensure(map.fd().as_fd(), Id::Map(info.id()), &self.pin)
    }

    pub const fn map(&self) -> &HashMap<MapData, K, V> {
        &self.map
    }

    pub fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(BpfError::map(self.name, "read", error)),
        }
    }

    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), BpfError> {
        self.make_room()?;
        match hash::insert(&mut self.map, key, value, NEW) {
            Ok(()) => {
                self.entries += 1;
                Ok(())
            }
            Err(error) => match hash::insert(&mut self.map, key, value, KNOWN) {
                Ok(()) => Ok(()),
                Err(_) => Err(BpfError::write(self.name, self.capacity, error)),
            },
        }
    }

    /// Removes an entry, if it exists.
    pub fn remove(&mut self, key: &K) {
        if self.map.remove(key).is_ok() {
            self.entries = self.entries.saturating_sub(1);
        }
    }

    /// Grows before it is full.
    fn make_room(&mut self) -> Result<(), BpfError> {
        if self.entries < self.capacity / 4 * 3 || self.capacity >= self.limit {
            return Ok(());
        }
        let capacity = self.capacity.saturating_mul(2).min(self.limit);
        match self.grow(capacity) {
            // There is some room left; the next entry tries again.
            Err(error) if self.entries < self.capacity => {
                tracing::debug!("map `{}` cannot grow yet: {error}", self.name);
                Ok(())
            }
            result => result,
        }
    }

    fn grow(&mut self, capacity: u32) -> Result<(), BpfError> {
        let mut next = self.next(capacity)?;
        let mut copied = Ok(());
        hash::for_each(self.name, &self.map, |key: &K, values: &[V]| {
            for value in values {
                if copied.is_ok() {
                    copied = next.add(key, value);
                }
            }
        })?;
        copied?;
        self.replace_by(next)
    }

    /// All entries.
    pub fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut entries = Vec::new();
        hash::for_each(self.name, &self.map, |key: &K, values: &[V]| {
            entries.extend(values.iter().map(|value| (*key, *value)));
        })?;
        Ok(entries)
    }

    /// Replaces all entries in one step.
    pub fn replace_all(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
        capacity: u32,
    ) -> Result<(), BpfError> {
        let mut next = self.next(capacity)?;
        for (key, value) in entries {
            next.add(&key, &value)?;
        }
        self.replace_by(next)
    }

    /// An empty one for the same place, which is not pinned yet.
    fn next(&self, capacity: u32) -> Result<Self, BpfError> {
        let (map, _) = typed(self.name, create::hash::<K, V>(self.name, capacity)?)?;
        Ok(Self { pin: self.pin.clone(), map, entries: 0, capacity, ..*self })
    }

    /// Adds an entry with a new key, without making room.
    fn add(&mut self, key: &K, value: &V) -> Result<(), BpfError> {
        hash::insert(&mut self.map, key, value, 0)
            .map_err(|error| BpfError::write(self.name, self.capacity, error))?;
        self.entries += 1;
        Ok(())
    }

    fn replace_by(&mut self, next: Self) -> Result<(), BpfError> {
        // An agent killed before this step has changed nothing; after it, all is done.
        pin::pin_over(next.map.map().fd().as_fd(), &self.pin)?;
        *self = next;
        Ok(())
    }
}

fn typed<K: Pod, V: Pod>(
    name: &'static str,
    map: MapData,
) -> Result<(HashMap<MapData, K, V>, u32), BpfError> {
    let failed = |error| BpfError::map(name, "open", error);
    let capacity = map.info().map_err(failed)?.max_entries();
    Ok((Map::HashMap(map).try_into().map_err(failed)?, capacity))
}
