//! Maps, and the maps in an array of maps.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_info, bpf_map_type};

use super::{bpf, objects::object_info, owned, zeroed_attr};

/// The kernel's id of a map (Linux 4.13).
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: integers and arrays of them.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    object_info(map, &mut info)?;
    Ok(info.id)
}

/// Makes an array of maps (Linux 4.12), which takes maps like this one.
pub fn create_array_of_maps(name: &str, entries: u32, like: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    map.key_size = 4;
    map.value_size = 4;
    map.max_entries = entries;
    map.inner_map_fd = like.as_raw_fd().cast_unsigned();
    // The last byte stays NUL.
    let room = map.map_name.len() - 1;
    for (place, &byte) in map.map_name[..room].iter_mut().zip(name.as_bytes()) {
        *place = byte.cast_signed();
    }
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).map(owned)
}

/// The id of the map at an index of an array of maps (Linux 4.14).
pub fn inner_map_id(array: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = 0u32;
    let mut attr = element(array, &index, ptr::from_mut(&mut id) as u64);
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a map into an array of maps (Linux 4.12), in place of what was at that index.
pub fn put_map(array: BorrowedFd<'_>, index: u32, map: BorrowedFd<'_>) -> io::Result<()> {
    let fd = map.as_raw_fd();
    let mut attr = element(array, &index, ptr::from_ref(&fd) as u64);
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes an entry of a hash in one step with reading it (Linux 5.14 for hashes).
pub fn take_entry<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = mem::MaybeUninit::<V>::uninit();
    let mut attr = element(map, key, value.as_mut_ptr() as u64);
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
        // SAFETY: the kernel has written it, and any bits are a valid value (Pod).
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An element of a map; `key` and what `value` points to must outlive the call.
fn element<K: Pod>(map: BorrowedFd<'_>, key: &K, value: u64) -> bpf_attr {
    let mut attr = zeroed_attr();
    // SAFETY: writing a union's field of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = ptr::from_ref(key) as u64;
    element.__bindgen_anon_1.value = value;
    attr
}

/// Rules out writes to a map by system calls from now on (Linux 5.2).
#[cfg(test)]
pub fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}
