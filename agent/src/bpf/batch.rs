//! Reading a hash in chunks, with a system call for each and not for each entry.
#![expect(unsafe_code, reason = "this is the boundary to the kernel")]

use std::{io, marker::PhantomData, mem::MaybeUninit, os::fd::AsFd as _, os::fd::AsRawFd as _};

use aya::{
    Pod,
    maps::{MapData, MapError, MapType},
    util::nr_cpus,
};
use aya_obj::generated::bpf_cmd;

use crate::bpf::syscall::{bpf, os_error, zeroed_attr};

/// A walk through a hash, and where it is (Linux 5.6).
///
/// What is written meanwhile may or may not be seen. An entry that stays as it is is seen exactly
/// once, because the kernel hands out whole buckets.
#[derive(Debug)]
pub struct HashWalk<K, V> {
    /// The first bucket that was not handed out yet; `None` at the start.
    bucket: Option<u32>,
    done: bool,
    per_chunk: usize,
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
}

/// Some entries of a hash.
pub struct Chunk<'a, K, V> {
    keys: &'a [MaybeUninit<K>],
    values: &'a [MaybeUninit<V>],
    /// One, or as many as there may be CPUs.
    values_per_key: usize,
    /// As many as the kernel wrote.
    len: usize,
    read: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> HashWalk<K, V> {
    /// Takes some `per_chunk` entries at a time.
    pub const fn new(per_chunk: usize) -> Self {
        Self { bucket: None, done: false, per_chunk, keys: Vec::new(), values: Vec::new() }
    }

    /// The next entries, `None` once all were there. The map must be the same one at each call; if it
    /// is not, entries are missed, and no more.
    ///
    /// # Errors
    /// When the map is no hash of such keys and values, or cannot be read.
    pub fn next(&mut self, map: &MapData) -> io::Result<Option<Chunk<'_, K, V>>> {
        let values_per_key = values_per_key::<K, V>(map)?;
        while !self.done {
            self.keys.resize(self.per_chunk, MaybeUninit::uninit());
            self.values.resize(self.per_chunk * values_per_key, MaybeUninit::uninit());
            // The kernel writes here even if it fails.
            let mut next = 0u32;
            let mut attr = zeroed_attr();
            attr.batch.map_fd = map.fd().as_fd().as_raw_fd().cast_unsigned();
            attr.batch.in_batch =
                self.bucket.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64);
            attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
            attr.batch.keys = self.keys.as_mut_ptr() as u64;
            attr.batch.values = self.values.as_mut_ptr() as u64;
            attr.batch.count = u32::try_from(self.per_chunk).unwrap_or(u32::MAX);
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
            // SAFETY: integers only.
            let len = unsafe { attr.batch.count } as usize;
            match result {
                Ok(_) => self.bucket = Some(next),
                // The last chunk, which may have entries.
                Err(error) if os_error(&error) == Some(libc::ENOENT) => self.done = true,
                // A bucket that has more entries than a chunk has room for.
                Err(error) if os_error(&error) == Some(libc::ENOSPC) => {
                    self.bucket = Some(next);
                    self.per_chunk *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if len > 0 {
                return Ok(Some(Chunk {
                    keys: &self.keys,
                    values: &self.values,
                    values_per_key,
                    len: len.min(self.per_chunk),
                    read: PhantomData,
                }));
            }
        }
        Ok(None)
    }
}

impl<K: Pod, V: Pod> Chunk<'_, K, V> {
    /// Each key with its value, or with one value for each possible CPU.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &[V])> {
        self.keys[..self.len].iter().zip(self.values.chunks(self.values_per_key)).map(
            |(key, values)| {
                // SAFETY: the kernel wrote this many keys, each with all of its values, whose sizes
                // were compared with the map's; any bits are a valid K and V (Pod).
                unsafe {
                    (
                        key.assume_init_ref(),
                        std::slice::from_raw_parts(values.as_ptr().cast::<V>(), values.len()),
                    )
                }
            },
        )
    }
}

/// How many values the kernel writes for each key; an error if they have other sizes.
fn values_per_key<K, V>(map: &MapData) -> io::Result<usize> {
    let info = map.info().map_err(io::Error::other)?;
    let kind = info.map_type().map_err(|error: MapError| io::Error::other(error))?;
    let is_same = |size: u32, wanted: usize| size as usize == wanted;
    let unfit = || io::Error::other(format!("a {kind:?} map of other keys or values"));
    if !is_same(info.key_size(), size_of::<K>()) || !is_same(info.value_size(), size_of::<V>()) {
        return Err(unfit());
    }
    match kind {
        MapType::Hash | MapType::LruHash => Ok(1),
        // Each CPU's value begins at a multiple of eight bytes.
        MapType::PerCpuHash | MapType::LruPerCpuHash if size_of::<V>().is_multiple_of(8) => {
            nr_cpus().map_err(|(_, error)| error)
        }
        _ => Err(unfit()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya::maps::{HashMap, Map};

    use super::*;
    use crate::bpf::{kinds::create, syscall::inject};

    fn hash(capacity: u32, entries: u32) -> HashMap<MapData, u32, u64> {
        let map = create::hash::<u32, u64>("WALKED", capacity).unwrap();
        let mut map: HashMap<_, u32, u64> = Map::HashMap(map).try_into().unwrap();
        for key in 0..entries {
            map.insert(key, u64::from(key) * 3, 0).unwrap();
        }
        map
    }

    fn walk(map: &MapData, per_chunk: usize) -> Vec<(u32, u64)> {
        let mut walk = HashWalk::<u32, u64>::new(per_chunk);
        let mut all = Vec::new();
        while let Some(chunk) = walk.next(map).unwrap() {
            assert!(chunk.iter().next().is_some(), "an empty chunk");
            all.extend(chunk.iter().map(|(key, values)| (*key, values[0])));
        }
        all
    }

    fn map(hash: &HashMap<MapData, u32, u64>) -> &MapData {
        aya::maps::IterableMap::map(hash)
    }

    #[test]
    fn every_entry_is_seen_once_whatever_the_size_of_the_chunks() {
        let hash = hash(1 << 14, 5000);
        let expected: BTreeMap<u32, u64> = hash.iter().map(Result::unwrap).collect();
        for per_chunk in [1, 7, 128, 5000, 100_000] {
            let seen = walk(map(&hash), per_chunk);
            assert_eq!(seen.len(), 5000, "in chunks of {per_chunk}");
            assert_eq!(seen.into_iter().collect::<BTreeMap<_, _>>(), expected, "{per_chunk}");
        }
    }

    #[test]
    fn an_empty_hash_has_no_chunk() {
        assert_eq!(walk(map(&hash(16, 0)), 8), []);
    }

    #[test]
    fn a_bucket_larger_than_a_chunk_is_read_all_the_same() {
        // As many buckets as entries: some have several.
        let hash = hash(4096, 4096);
        assert_eq!(walk(map(&hash), 1).len(), 4096);
    }

    #[test]
    fn a_call_that_fails_within_a_walk_is_an_error_and_the_walk_goes_on_from_there() {
        let hash = hash(1 << 14, 5000);
        let mut walk = HashWalk::<u32, u64>::new(512);
        inject::fail_once(bpf_cmd::BPF_MAP_LOOKUP_BATCH, 2, libc::ENOMEM);
        let mut keys = Vec::new();
        let mut errors = Vec::new();
        loop {
            match walk.next(map(&hash)) {
                Ok(Some(chunk)) => keys.extend(chunk.iter().map(|(key, _)| *key)),
                Ok(None) => break,
                Err(error) => errors.push((keys.len(), error.to_string())),
            }
        }
        let [(before, error)] = &errors[..] else { panic!("{errors:?}") };
        assert!((1..5000).contains(before), "{before} entries before the error");
        assert!(error.starts_with("BPF_MAP_LOOKUP_BATCH: Cannot allocate memory"), "{error}");
        keys.sort_unstable();
        assert!(keys.into_iter().eq(0..5000), "each entry once");
    }

    #[test]
    fn a_map_of_other_keys_is_not_read_into_memory_that_is_too_small() {
        let hash = hash(16, 4);
        let error = HashWalk::<u32, u32>::new(4).next(map(&hash)).err().unwrap();
        assert!(error.to_string().contains("other keys or values"), "{error}");
    }
}
