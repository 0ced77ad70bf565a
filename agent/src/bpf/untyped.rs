//! Reading maps whose keys and values are those of another build. The kernel says how large they are.
#![expect(unsafe_code, reason = "this is the boundary to the kernel")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
};

use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};
use aya_obj::generated::{bpf_attr, bpf_cmd};

use crate::bpf::{
    error::BpfError,
    syscall::{bpf, zeroed_attr},
};

/// Calls `each` with the key and the value of each entry of a hash or an array (Linux 4.12); for a per-CPU map once for each
/// CPU. Nothing may write to the map meanwhile: what is removed makes a hash begin again.
pub fn for_each(
    name: &'static str,
    map: &MapData,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<(), BpfError> {
    let failed = |error| BpfError::io(format!("read map `{name}`"), error);
    let mut entry = Entry::of(map).map_err(failed)?;
    while entry.next().map_err(failed)? {
        entry.read().map_err(failed)?;
        for value in entry.values.chunks_exact(entry.stride) {
            each(&entry.key, &value[..entry.value_size]);
        }
    }
    Ok(())
}

/// Room for an entry.
struct Entry<'a> {
    map: &'a MapData,
    key: Vec<u8>,
    is_first: bool,
    /// All that the kernel writes for a key.
    values: Vec<u8>,
    value_size: usize,
    /// From the value of one CPU to that of the next.
    stride: usize,
}

impl<'a> Entry<'a> {
    fn of(map: &'a MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let value_size = info.value_size() as usize;
        let (stride, count) = match info.map_type().map_err(io::Error::other)? {
            MapType::Hash | MapType::Array => (value_size, 1),
            MapType::PerCpuHash | MapType::PerCpuArray => {
                (value_size.next_multiple_of(8), nr_cpus().map_err(|(_, error)| error)?)
            }
            kind => return Err(io::Error::other(format!("a {kind:?} map"))),
        };
        let key = vec![0; info.key_size() as usize];
        let values = vec![0; stride * count];
        Ok(Self { map, key, is_first: true, values, value_size, stride })
    }

    /// Goes to the next key; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let mut next = vec![0; self.key.len()];
        let key = if self.is_first { ptr::null() } else { self.key.as_ptr() };
        let mut attr = self.element(key, next.as_mut_ptr());
        self.is_first = false;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => {
                self.key = next;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let values = self.values.as_mut_ptr();
        let mut attr = self.element(self.key.as_ptr(), values);
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
    }

    /// `key` is null or as long as a key of the map, and `value`, which the kernel writes to, as long as what it writes: the sizes
    /// are the kernel's own.
    fn element(&self, key: *const u8, value: *mut u8) -> bpf_attr {
        let mut attr = zeroed_attr();
        // SAFETY: writing a union's field of plain integers.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = self.map.fd().as_fd().as_raw_fd().cast_unsigned();
        element.key = key as u64;
        element.__bindgen_anon_1.value = value as u64;
        attr
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya::maps::{HashMap, Map};

    use super::*;
    use crate::bpf::{kinds::create, syscall::inject};

    fn read(map: &MapData) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, BpfError> {
        let mut all = BTreeMap::new();
        for_each("UNTYPED", map, |key, value| {
            all.insert(key.to_vec(), value.to_vec());
        })?;
        Ok(all)
    }

    #[test]
    fn every_entry_of_a_hash_is_read_with_the_sizes_that_the_kernel_says() {
        let map = create::hash::<u32, [u8; 12]>("UNTYPED", 4096).unwrap();
        assert!(read(&map).unwrap().is_empty());
        let mut map: HashMap<_, u32, [u8; 12]> = Map::HashMap(map).try_into().unwrap();
        let expected: BTreeMap<_, _> = (0..3000_u32)
            .map(|key| (key.to_ne_bytes().to_vec(), vec![key.to_ne_bytes()[0]; 12]))
            .collect();
        for key in 0..3000_u32 {
            map.insert(key, [key.to_ne_bytes()[0]; 12], 0).unwrap();
        }
        assert_eq!(read(aya::maps::IterableMap::map(&map)).unwrap(), expected);
    }

    #[test]
    fn an_array_has_all_its_entries_and_an_error_names_the_call() {
        let map = create::array::<u64>("UNTYPED", 3, 0).unwrap();
        let keys: Vec<_> = read(&map).unwrap().into_keys().collect();
        assert_eq!(keys, [0_u32, 1, 2].map(|key| key.to_ne_bytes().to_vec()));
        inject::fail_once(bpf_cmd::BPF_MAP_LOOKUP_ELEM, 1, libc::ENOMEM);
        let error = anyhow::Error::from(read(&map).unwrap_err());
        let text = format!("{error:#}");
        assert!(text.starts_with("cannot read map `UNTYPED`: BPF_MAP_LOOKUP_ELEM"), "{text}");
    }
}
