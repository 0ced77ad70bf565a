//! Hashes that evict the least recently used entry, with a size that an option sets.

use std::os::fd::AsFd as _;

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData},
};

use super::{open, typed};
use crate::{
    bpf::{
        kinds::{create, hash},
        pin,
    },
    dataplane::{error::DataplaneError, pinning::layout::Pins},
};

/// Makes and pins the map, or gives it this size.
pub fn ensure<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
    entries: u32,
) -> Result<(), DataplaneError> {
    create::ensure(&pins.map(name), name, || create::lru::<K, V>(name, entries))?;
    resize::<K, V>(pins, name, entries)
}

/// Gives the map another size, if it is to have one. Programs that run keep the old one until they are replaced: what
/// they write in between is lost.
fn resize<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
    entries: u32,
) -> Result<(), DataplaneError> {
    let before = open(pins, name)?;
    let failed = |error| DataplaneError::map(name, "resize", error);
    if before.info().map_err(failed)?.max_entries() == entries {
        return Ok(());
    }
    let before: HashMap<MapData, K, V> = typed(name, Map::LruHashMap(before))?;
    let resized = create::lru::<K, V>(name, entries)?;
    let mut copy: HashMap<MapData, K, V> = typed(name, Map::LruHashMap(resized))?;
    let mut result = Ok(());
    hash::for_each(name, &before, |key: &K, values: &[V]| {
        for value in values {
            if result.is_ok() {
                result = hash::insert(&mut copy, key, value, 0);
            }
        }
    })?;
    result.map_err(failed)?;
    Ok(pin::pin_over(copy.map().fd().as_fd(), &pins.map(name))?)
}
