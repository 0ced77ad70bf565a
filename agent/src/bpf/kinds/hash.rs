//! Writing and reading hashes.

use std::os::fd::AsFd as _;

use aya::{
    Pod,
    maps::{HashMap, IterableMap, MapData, MapError},
    util::nr_cpus,
};

use crate::bpf::{
    batch::HashWalk,
    error::{BpfError, is_out_of_memory},
    syscall,
};

/// `BPF_NOEXIST`: only a new entry.
pub const NEW: u64 = 1;

/// Attempts of a write before ENOMEM is returned.
const TRIES: usize = 8;

/// Writes an entry. The kernel keeps a small cache of memory for hashes and refills it asynchronously
/// (`bpf_mem_alloc`, Linux 6.1), so many inserts in a row can fail with ENOMEM for a moment.
pub fn insert<K: Pod, V: Pod>(
    hash: &mut HashMap<MapData, K, V>,
    key: &K,
    value: &V,
    flags: u64,
) -> Result<(), MapError> {
    let mut result = hash.insert(key, value, flags);
    for _ in 1..TRIES {
        match &result {
            Err(error) if is_out_of_memory(error) => {
                std::thread::yield_now();
                result = hash.insert(key, value, flags);
            }
            _ => break,
        }
    }
    result
}

/// Removes an entry and returns it: in one step since Linux 5.14, so that nobody else has changed it in between.
pub fn take<K: Pod, V: Pod>(
    hash: &mut HashMap<MapData, K, V>,
    key: &K,
) -> Result<Option<V>, MapError> {
    let taken = syscall::take_entry(hash.map().fd().as_fd(), key);
    if let Ok(taken) = taken {
        return Ok(taken);
    }
    let entry = hash.get(key, 0);
    match entry.and_then(|entry| hash.remove(key).map(|()| entry)) {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Entries that are read with one system call, and bytes of their values: a per-CPU hash has large ones.
const CHUNK_OF_HASH: usize = 4096;
const BYTES_OF_CHUNK: usize = 4 << 20;

/// Calls `each` for all entries of a hash; an entry of a per-CPU hash has a value for each CPU.
pub fn for_each<K: Pod, V: Pod, M>(
    name: &'static str,
    hash: &impl IterableMap<K, M>,
    mut each: impl FnMut(&K, &[V]),
) -> Result<(), BpfError> {
    let failed = |error| BpfError::io(format!("read map `{name}`"), error);
    let cpus = nr_cpus().map_err(|(_, error)| failed(error))?;
    let fitting = BYTES_OF_CHUNK / (size_of::<V>().max(1) * cpus);
    let mut walk = HashWalk::new(fitting.clamp(64, CHUNK_OF_HASH));
    while let Some(chunk) = walk.next(hash.map()).map_err(failed)? {
        chunk.iter().for_each(|(key, values)| each(key, values));
    }
    Ok(())
}
