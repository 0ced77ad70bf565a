//! Arrays of maps, whose inner maps are pinned by their ids.
//!
//! An array of maps gives out its inner maps' ids. Opening a map by its id takes CAP_SYS_ADMIN, opening
//! a pin does not: so that the agent can do without that capability, every inner map is pinned as
//! `maps/inner/ID` before it is put into its array, and unpinned after it was taken out.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    ops::Add,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::MapData;

use super::{
    error::DataplaneError,
    pins,
    pins::{Id, Pins},
    sys,
};

/// The name of the directory of inner maps, among the maps.
pub const FOLDER: &str = "inner";

/// A pinned array of maps.
pub struct Outer {
    name: &'static str,
    map: MapData,
    entries: u32,
    inner: PathBuf,
    /// The writer's: the inner maps by index. Held open, because what has lost its pin can be pinned
    /// again without CAP_SYS_ADMIN only from a descriptor.
    held: Option<Mutex<BTreeMap<u32, Inner>>>,
}

#[derive(Debug)]
struct Inner {
    id: u32,
    map: OwnedFd,
}

/// What [`Outer::repair`] had to mend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    pub pins: usize,
    /// Inner maps that were not where they belong.
    pub maps: usize,
}

impl Add for Mended {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pins: self.pins + other.pins, maps: self.maps + other.maps }
    }
}

impl Outer {
    /// For reading.
    pub fn open(pins: &Pins, name: &'static str) -> Result<Self, DataplaneError> {
        let opened = |error| DataplaneError::map(name, "open", error);
        let map = MapData::from_pin(pins.map(name)).map_err(opened)?;
        let entries = map.info().map_err(opened)?.max_entries();
        Ok(Self { name, map, entries, inner: pins.inner_maps(), held: None })
    }

    /// For the one writer.
    pub fn open_to_write(pins: &Pins, name: &'static str) -> Result<Self, DataplaneError> {
        Ok(Self { held: Some(Mutex::default()), ..Self::open(pins, name)? })
    }

    /// How many maps it has room for.
    pub const fn len(&self) -> u32 {
        self.entries
    }

    /// The map at an index; `None` where there is none.
    pub fn get(&self, index: u32) -> Result<Option<MapData>, DataplaneError> {
        let Some(id) = self.id(index)? else { return Ok(None) };
        let pinned = MapData::from_pin(self.pin(id));
        // Somebody has removed the pin: whoever may do everything can go without it.
        let map = pinned.or_else(|error| MapData::from_id(id).map_err(|_| error));
        let map = map.map_err(|error| DataplaneError::map(self.name, "open a part of", error))?;
        self.hold(index, id, &map)?;
        Ok(Some(map))
    }

    /// Puts a map at an index, in place of what was there.
    pub fn set(&self, index: u32, map: &MapData) -> Result<(), DataplaneError> {
        let info = map.info();
        let id =
            info.map_err(|error| DataplaneError::map(self.name, "read a part of", error))?.id();
        let before = self.id(index)?;
        let path = self.pin(id);
        sys::pin(map.fd().as_fd(), &path)
            .map_err(|error| DataplaneError::io(format!("pin {}", path.display()), error))?;
        self.put(index, map.fd().as_fd())?;
        self.hold(index, id, map)?;
        if let Some(before) = before {
            // Programs that still use it hold it themselves.
            let _ = fs::remove_file(self.pin(before));
        }
        Ok(())
    }

    /// Looks whether every inner map is where it was put, and pinned; mends what is not so.
    pub fn repair(&self) -> Result<Mended, DataplaneError> {
        let mut mended = Mended::default();
        for (&index, Inner { id, map }) in self.held().iter().flat_map(|held| held.iter()) {
            let was_lost = pins::ensure(map.as_fd(), Id::Map(*id), &self.pin(*id))?;
            mended.pins += usize::from(was_lost);
            if self.id(index)? != Some(*id) {
                self.put(index, map.as_fd())?;
                mended.maps += 1;
            }
        }
        Ok(mended)
    }

    /// How many inner maps are not where they were put.
    pub fn displaced(&self) -> Result<usize, DataplaneError> {
        let mut displaced = 0;
        for (&index, inner) in self.held().iter().flat_map(|held| held.iter()) {
            displaced += usize::from(self.id(index)? != Some(inner.id));
        }
        Ok(displaced)
    }

    fn put(&self, index: u32, map: BorrowedFd<'_>) -> Result<(), DataplaneError> {
        sys::put_map(self.map.fd().as_fd(), index, map).map_err(|error| {
            DataplaneError::io(format!("put a map into map `{}`", self.name), error)
        })
    }

    fn hold(&self, index: u32, id: u32, map: &MapData) -> Result<(), DataplaneError> {
        if let Some(mut held) = self.held() {
            let map = map.fd().as_fd().try_clone_to_owned().map_err(|error| {
                DataplaneError::io(format!("hold a part of map `{}`", self.name), error)
            })?;
            held.insert(index, Inner { id, map });
        }
        Ok(())
    }

    fn held(&self) -> Option<MutexGuard<'_, BTreeMap<u32, Inner>>> {
        // Whole entries are put in, so what a panic left behind is still good.
        self.held.as_ref().map(|held| held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn id(&self, index: u32) -> Result<Option<u32>, DataplaneError> {
        sys::inner_map_id(self.map.fd().as_fd(), index)
            .map_err(|error| DataplaneError::io(format!("read map `{}`", self.name), error))
    }

    fn ids(&self) -> Result<Vec<u32>, DataplaneError> {
        // All of them: somebody may have taken out one in the middle.
        (0..self.entries).filter_map(|index| self.id(index).transpose()).collect()
    }

    fn pin(&self, id: u32) -> PathBuf {
        pin(&self.inner, id)
    }
}

/// Removes the pins of inner maps that no array has any more, or never had: an agent was killed
/// between two steps of [`Outer::set`].
pub fn remove_strays(pins: &Pins, names: &[&'static str]) -> Result<(), DataplaneError> {
    let folder = pins.inner_maps();
    let mut used = HashSet::new();
    for name in names {
        used.extend(Outer::open(pins, name)?.ids()?.into_iter().map(|id| pin(&folder, id)));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !used.contains(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn pin(folder: &Path, id: u32) -> PathBuf {
    folder.join(id.to_string())
}
