//! Making maps.

use std::{os::fd::AsFd as _, path::Path};

use aya::{Pod, maps::MapData};
use aya_obj::generated::bpf_map_type::{
    self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH,
};
use sockline_ebpf::NO_PREALLOC;

use crate::bpf::{error::BpfError, syscall};

/// An array with these flags.
pub fn array<T: Pod>(name: &'static str, entries: u32, flags: usize) -> Result<MapData, BpfError> {
    map(name, BPF_MAP_TYPE_ARRAY, (size_of::<u32>(), size_of::<T>()), entries, flags)
}

/// A hash whose memory follows its entries.
pub fn hash<K: Pod, V: Pod>(name: &'static str, entries: u32) -> Result<MapData, BpfError> {
    map(name, BPF_MAP_TYPE_HASH, (size_of::<K>(), size_of::<V>()), entries, NO_PREALLOC)
}

/// A hash that evicts the least recently used entry. Its memory is allocated at once.
pub fn lru<K: Pod, V: Pod>(name: &'static str, entries: u32) -> Result<MapData, BpfError> {
    map(name, BPF_MAP_TYPE_LRU_HASH, (size_of::<K>(), size_of::<V>()), entries, 0)
}

/// Pins a map at a path, unless there is a pin already.
pub fn ensure(
    path: &Path,
    name: &'static str,
    make: impl FnOnce() -> Result<MapData, BpfError>,
) -> Result<(), BpfError> {
    if path.exists() {
        return Ok(());
    }
    syscall::pin(make()?.fd().as_fd(), path)
        .map_err(|error| BpfError::io(format!("pin map `{name}`"), error))
}

/// Pins an array of maps like the one that `inner` makes, unless there is a pin already. aya would create it with
/// an inner map that carries BTF types; Linux 5.15 to 6.1 then refuses inner maps without them, which the agent
/// puts in (`timer_off` in `bpf_map_meta_equal`). So the template comes from where all inner maps come from.
pub fn ensure_array_of_maps(
    path: &Path,
    name: &'static str,
    entries: u32,
    inner: impl FnOnce() -> Result<MapData, BpfError>,
) -> Result<(), BpfError> {
    ensure(path, name, || {
        let array = syscall::create_array_of_maps(name, entries, inner()?.fd().as_fd())
            .map_err(|error| BpfError::io(format!("create map `{name}`"), error))?;
        MapData::from_fd(array).map_err(|error| BpfError::map(name, "open", error))
    })
}

fn map(
    name: &'static str,
    kind: bpf_map_type,
    (key, value): (usize, usize),
    entries: u32,
    flags: usize,
) -> Result<MapData, BpfError> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let definition =
        aya_obj::Map::new_from_params(kind as u32, size(key), size(value), entries, size(flags));
    MapData::create(definition, name, None).map_err(|error| BpfError::map(name, "create", error))
}
