//! BPF objects as the kernel shows them to any process: by pin or id, and as bytes, so that tests can read maps
//! of any layout.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use memmap2::MmapOptions;

/// A kind of object that has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Program,
    Map,
    Link,
}

/// `enum bpf_cmd`.
mod command {
    pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
    pub(super) const MAP_UPDATE_ELEM: u32 = 2;
    pub(super) const MAP_DELETE_ELEM: u32 = 3;
    pub(super) const MAP_GET_NEXT_KEY: u32 = 4;
    pub(super) const OBJ_PIN: u32 = 6;
    pub(super) const OBJ_GET: u32 = 7;
    pub(super) const PROG_GET_FD_BY_ID: u32 = 13;
    pub(super) const MAP_GET_FD_BY_ID: u32 = 14;
    pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub(super) const LINK_GET_FD_BY_ID: u32 = 30;
    pub(super) const LINK_DETACH: u32 = 34;
}

/// The start of `union bpf_attr` for commands on elements of maps.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for pins.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Question {
    fd: u32,
    length: u32,
    answer: u64,
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute is as long as is said, and its pointers are to buffers of the caller that
    // are as long as the command needs.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a descriptor that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    bpf(command::OBJ_GET, &mut attr).map(owned)
}

/// Pins a pinned object at a second path.
///
/// # Errors
/// Those of `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
pub fn pin_again(pin: &Path, beside: &Path) -> io::Result<()> {
    let object = open_pin(pin)?;
    let path = CString::new(beside.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    bpf(command::OBJ_PIN, &mut attr).map(drop)
}

/// Detaches the program of a pinned link from its cgroup; the link and its pin stay (Linux 5.9).
///
/// # Errors
/// Those of `BPF_OBJ_GET` and `BPF_LINK_DETACH`.
pub fn detach_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = link.as_raw_fd() as u32;
    bpf(command::LINK_DETACH, &mut attr).map(drop)
}

/// Whether the kernel has an object of this id.
pub fn exists(object: Object, id: u32) -> bool {
    let command = match object {
        Object::Program => command::PROG_GET_FD_BY_ID,
        Object::Map => command::MAP_GET_FD_BY_ID,
        Object::Link => command::LINK_GET_FD_BY_ID,
    };
    let mut attr = [id, 0, 0, 0];
    match bpf(command, &mut attr) {
        Ok(fd) => {
            drop(owned(fd));
            true
        }
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The object of a pin.
///
/// # Errors
/// Those of `BPF_OBJ_GET`.
pub fn pinned(path: &Path) -> io::Result<Option<(Object, u32)>> {
    let fd = open_pin(path)?;
    Ok(named_in(&fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?))
}

/// The objects that a process has open.
///
/// # Errors
/// When there is no such process.
pub fn open_in(pid: u32) -> io::Result<Vec<(Object, u32)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"))?;
    // A descriptor may be closed meanwhile.
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Ok(texts.filter_map(|text| named_in(&text)).collect())
}

/// Parses `/proc/PID/fdinfo`: a link's own id is before that of its program.
fn named_in(fdinfo: &str) -> Option<(Object, u32)> {
    let id = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|id| id.trim().parse().ok())
    };
    [("link_id", Object::Link), ("map_id", Object::Map), ("prog_id", Object::Program)]
        .into_iter()
        .find_map(|(name, object)| Some((object, id(name)?)))
}

/// A map with keys and values as bytes. Not for maps with a value for each processor.
pub struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
}

impl RawMap {
    /// # Errors
    /// Those of `BPF_OBJ_GET`; and when it is no map.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        Self::of(open_pin(path)?)
    }

    /// # Errors
    /// Those of `BPF_MAP_GET_FD_BY_ID`.
    pub fn with_id(id: u32) -> io::Result<Self> {
        let mut attr = [id, 0, 0, 0];
        Self::of(owned(bpf(command::MAP_GET_FD_BY_ID, &mut attr)?))
    }

    fn of(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        let mut attr = Question {
            fd: fd.as_raw_fd() as u32,
            length: size_of::<MapInfo>() as u32,
            answer: &raw mut info as u64,
        };
        bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(Self { fd, info })
    }

    /// Its id.
    pub const fn id(&self) -> u32 {
        self.info.id
    }

    /// The maps in an array of maps, where there are any.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn inner_ids(&self) -> io::Result<Vec<u32>> {
        let mut ids = Vec::new();
        // The agent fills them from the start.
        for index in 0..self.info.max_entries {
            let Some(value) = self.get(&index.to_ne_bytes())? else { break };
            let Ok(id) = value.try_into() else { break };
            ids.push(u32::from_ne_bytes(id));
        }
        Ok(ids)
    }

    /// All keys; those of an array are its indices.
    ///
    /// # Errors
    /// Those of `BPF_MAP_GET_NEXT_KEY`.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.info.key_size as usize];
            let before = keys.last().map_or(0, |key| key.as_ptr() as u64);
            match self.element(command::MAP_GET_NEXT_KEY, before, next.as_mut_ptr() as u64) {
                Ok(_) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(error) => return Err(error),
            }
            if keys.len() > self.info.max_entries as usize {
                return Ok(keys);
            }
        }
    }

    /// # Errors
    /// Those of `BPF_MAP_LOOKUP_ELEM`, but for a key that is not there.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.info.value_size as usize];
        let key = self.checked(key)?;
        match self.element(command::MAP_LOOKUP_ELEM, key, value.as_mut_ptr() as u64) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// Those of `BPF_MAP_UPDATE_ELEM`, and for a value of the wrong length.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.info.value_size as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let key = self.checked(key)?;
        self.element(command::MAP_UPDATE_ELEM, key, value.as_ptr() as u64).map(drop)
    }

    /// Writes bytes into one value of an array that can be mapped, and leaves the rest of it as it is: programs may
    /// be counting there, and [`RawMap::set`] would put back what they counted since the value was read.
    ///
    /// # Errors
    /// Those of `mmap`, and `InvalidInput` for a place outside the array.
    pub fn overwrite(&self, index: u32, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let (size, values) = (self.info.value_size as usize, self.info.max_entries as usize);
        if index as usize >= values || offset + bytes.len() > size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The kernel's arrays have their values at multiples of 8 bytes.
        let size = size.next_multiple_of(8);
        let memory = MmapOptions::new().len(values * size).map_raw(&self.fd)?;
        for (byte, at) in bytes.iter().zip(index as usize * size + offset..) {
            // SAFETY: within the mapping. Programs and agents use the same memory, with atomic and whole accesses.
            unsafe { memory.as_mut_ptr().add(at).write_volatile(*byte) };
        }
        Ok(())
    }

    /// # Errors
    /// Those of `BPF_MAP_DELETE_ELEM`.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        let key = self.checked(key)?;
        self.element(command::MAP_DELETE_ELEM, key, 0).map(drop)
    }

    fn checked(&self, key: &[u8]) -> io::Result<u64> {
        if key.len() == self.info.key_size as usize {
            Ok(key.as_ptr() as u64)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn element(&self, command: u32, key: u64, value: u64) -> io::Result<i32> {
        let map = self.fd.as_raw_fd() as u32;
        bpf(command, &mut Element { map, padding: 0, key, value, flags: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_distinguished_from_its_program_and_a_map() {
        let link = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\tab\nprog_id:\t9\n";
        assert_eq!(named_in(link), Some((Object::Link, 7)));
        assert_eq!(named_in("prog_type:\t18\nprog_id:\t9\n"), Some((Object::Program, 9)));
        assert_eq!(named_in("map_type:\t1\nmap_id:\t12\n"), Some((Object::Map, 12)));
        assert_eq!(named_in("pos:\t0\nflags:\t02\n"), None);
    }
}
