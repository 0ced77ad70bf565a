//! Arrays of maps. Their inner maps are pinned by id.
//!
//! A look-up in an array of maps returns the id of an inner map. Opening a map by its id takes CAP_SYS_ADMIN,
//! opening a pin does not. So that the agent can run without that capability, every inner map is pinned as
//! `maps/inner/ID` before it is put into its array, and unpinned after it was replaced.
//!
//! A system call puts maps in, not aya's `ArrayOfMaps::set`: that takes `&mut self`, and several threads put segments at
//! once; tests also inject faults into the call.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    ops::Add,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::MapData;

use crate::bpf::{
    error::BpfError,
    parallel::{THREADS, in_parallel},
    pin::{self, Id},
    syscall,
};

/// A pinned array of maps.
pub struct ArrayOfMaps {
    name: &'static str,
    map: MapData,
    entries: u32,
    inner: PathBuf,
    /// For the writer: the inner maps by index. Held open, because without CAP_SYS_ADMIN a map that lost its
    /// pin can only be pinned again from a descriptor.
    held: Option<Mutex<BTreeMap<u32, Inner>>>,
}

#[derive(Debug)]
struct Inner {
    id: u32,
    map: OwnedFd,
}

/// What [`ArrayOfMaps::repair`] repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    pub pins: usize,
    /// Inner maps that were missing from their index.
    pub maps: usize,
}

impl Add for Repaired {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pins: self.pins + other.pins, maps: self.maps + other.maps }
    }
}

impl ArrayOfMaps {
    /// For reading. `inner` is the folder that the inner maps are pinned in.
    pub fn open(name: &'static str, path: &Path, inner: PathBuf) -> Result<Self, BpfError> {
        let opened = |error| BpfError::map(name, "open", error);
        let map = MapData::from_pin(path).map_err(opened)?;
        let entries = map.info().map_err(opened)?.max_entries();
        Ok(Self { name, map, entries, inner, held: None })
    }

    /// For the one writer.
    pub fn open_to_write(
        name: &'static str,
        path: &Path,
        inner: PathBuf,
    ) -> Result<Self, BpfError> {
        Ok(Self { held: Some(Mutex::default()), ..Self::open(name, path, inner)? })
    }

    /// How many maps it has room for.
    pub const fn len(&self) -> u32 {
        self.entries
    }

    /// The map at an index; `None` where there is none.
    pub fn get(&self, index: u32) -> Result<Option<MapData>, BpfError> {
        self.id(index)?.map(|id| self.open_inner(index, id)).transpose()
    }

    /// The maps and their indices, as far as [`in_use`] finds them.
    pub fn all(&self) -> Result<Vec<(u32, MapData)>, BpfError> {
        let ids = self.ids()?;
        ids.into_iter().map(|(index, id)| Ok((index, self.open_inner(index, id)?))).collect()
    }

    fn open_inner(&self, index: u32, id: u32) -> Result<MapData, BpfError> {
        let pinned = MapData::from_pin(self.pin(id));
        // Without its pin, the map can still be opened by a process with CAP_SYS_ADMIN.
        let map = pinned.or_else(|error| MapData::from_id(id).map_err(|_| error));
        let map = map.map_err(|error| BpfError::map(self.name, "open a part of", error))?;
        self.hold(index, id, &map)?;
        Ok(map)
    }

    /// Sets the map at an index, replacing the one there.
    pub fn set(&self, index: u32, map: &MapData) -> Result<(), BpfError> {
        let info = map.info();
        let id = info.map_err(|error| BpfError::map(self.name, "read a part of", error))?.id();
        let path = self.pin(id);
        syscall::pin(map.fd().as_fd(), &path)
            .map_err(|error| BpfError::io(format!("pin {}", path.display()), error))?;
        self.put(index, map.fd().as_fd())?;
        if let Some(before) = self.hold(index, id, map)? {
            // Programs that still use it hold a reference.
            let _ = fs::remove_file(self.pin(before.id));
        }
        Ok(())
    }

    /// Checks that every inner map is at its index and pinned; repairs what is not.
    pub fn repair(&self) -> Result<Repaired, BpfError> {
        let displaced = self.displaced_indices()?;
        let mut repaired = Repaired::default();
        for (&index, Inner { id, map }) in self.held().iter().flat_map(|held| held.iter()) {
            let was_lost = pin::ensure(map.as_fd(), Id::Map(*id), &self.pin(*id))?;
            repaired.pins += usize::from(was_lost);
            if displaced.contains(&index) {
                self.put(index, map.as_fd())?;
                repaired.maps += 1;
            }
        }
        Ok(repaired)
    }

    /// How many inner maps are not at their index.
    pub fn displaced(&self) -> Result<usize, BpfError> {
        Ok(self.displaced_indices()?.len())
    }

    fn displaced_indices(&self) -> Result<HashSet<u32>, BpfError> {
        let held: Vec<(u32, u32)> = self
            .held()
            .iter()
            .flat_map(|held| held.iter().map(|(index, inner)| (*index, inner.id)))
            .collect();
        let displaced =
            in_parallel(&held, |&(index, id)| Ok((self.id(index)? != Some(id)).then_some(index)))?;
        Ok(displaced.into_iter().flatten().collect())
    }

    fn put(&self, index: u32, map: BorrowedFd<'_>) -> Result<(), BpfError> {
        syscall::put_map(self.map.fd().as_fd(), index, map)
            .map_err(|error| BpfError::io(format!("put a map into map `{}`", self.name), error))
    }

    /// Returns the map held there before, if it was another one.
    fn hold(&self, index: u32, id: u32, map: &MapData) -> Result<Option<Inner>, BpfError> {
        let Some(mut held) = self.held() else { return Ok(None) };
        let map =
            map.fd().as_fd().try_clone_to_owned().map_err(|error| {
                BpfError::io(format!("hold a part of map `{}`", self.name), error)
            })?;
        Ok(held.insert(index, Inner { id, map }).filter(|before| before.id != id))
    }

    fn held(&self) -> Option<MutexGuard<'_, BTreeMap<u32, Inner>>> {
        // Entries are inserted whole, so the map is consistent after a panic.
        self.held.as_ref().map(|held| held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn id(&self, index: u32) -> Result<Option<u32>, BpfError> {
        syscall::inner_map_id(self.map.fd().as_fd(), index)
            .map_err(|error| BpfError::io(format!("read map `{}`", self.name), error))
    }

    /// The ids of the inner maps by their indices, as far as [`in_use`] finds them.
    fn ids(&self) -> Result<Vec<(u32, u32)>, BpfError> {
        in_use(self.entries, |index| self.id(index))
    }

    fn pin(&self, id: u32) -> PathBuf {
        pin_of(&self.inner, id)
    }
}

/// Removes the pins of inner maps that are in no array: an agent was killed between two steps of
/// [`ArrayOfMaps::set`].
pub fn remove_stale(folder: &Path, arrays: &[ArrayOfMaps]) -> Result<(), BpfError> {
    let mut used = HashSet::new();
    for array in arrays {
        used.extend(array.ids()?.into_iter().map(|(_, id)| pin_of(folder, id)));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !used.contains(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Reads an array whose lowest free index is always allocated first. Another process may have removed entries in
/// the middle, so reading ends only where [`THREADS`] indices in a row are free. Programs keep using what lies
/// behind so large a gap until the next plan is applied.
fn in_use<T: Send>(
    len: u32,
    read: impl Fn(u32) -> Result<Option<T>, BpfError> + Sync,
) -> Result<Vec<(u32, T)>, BpfError> {
    let mut found = Vec::new();
    let indices: Vec<u32> = (0..len).collect();
    for indices in indices.chunks(THREADS) {
        let before = found.len();
        let values = in_parallel(indices, |&index| read(index))?;
        found
            .extend(indices.iter().zip(values).filter_map(|(index, value)| Some((*index, value?))));
        if found.len() == before {
            break;
        }
    }
    Ok(found)
}

fn pin_of(folder: &Path, id: u32) -> PathBuf {
    folder.join(id.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// What is found of an array of 8,192 in which these indices are in use, and in how many readings.
    fn read(used: &[u32]) -> (Vec<u32>, u32) {
        let readings = AtomicU32::new(0);
        let found = in_use(8192, |index| {
            readings.fetch_add(1, Ordering::Relaxed);
            Ok(used.contains(&index).then_some(()))
        });
        let found = found.unwrap().into_iter().map(|(index, ())| index).collect();
        (found, readings.into_inner())
    }

    #[test]
    fn a_scan_waits_for_programs_once_on_linux_6_1() {
        let used: Vec<u32> = (0..40).collect();
        let (found, readings) = read(&used);
        assert_eq!(found, used);
        assert!(readings <= 96, "{readings}");
        assert!(read(&[]).1 <= 32);
    }

    #[test]
    fn holes_are_read_over() {
        let used = [3, 40, 64, 95, 120];
        assert_eq!(read(&used).0, used);
    }
}
