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

/// Entries that each CPU keeps for itself: before Linux 6.16, it takes this many free ones at once (`LOCAL_FREE_TARGET`,
/// kernel/bpf/bpf_lru_list.c), and the kernel evicts when the other CPUs find none.
const OF_EACH_CPU: u32 = 128;

/// What a map needs beyond the entries that it is to hold, on this machine.
pub fn reserve() -> Result<u32, DataplaneError> {
    let cpus =
        aya::util::nr_cpus().map_err(|(what, error)| DataplaneError::io(what.to_owned(), error))?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(OF_EACH_CPU))
}

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
    let now = before.info().map_err(failed)?.max_entries();
    if now == entries {
        return Ok(());
    }
    tracing::info!(map = name, before = now, now = entries, "resizing the map");
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
