//! Arrays of maps, whose inner maps are pinned by their ids.
//!
//! An array of maps gives out its inner maps' ids. Opening a map by its id takes CAP_SYS_ADMIN, opening
//! a pin does not: so that the agent can do without that capability, every inner map is pinned as
//! `maps/inner/ID` before it is put into its array, and unpinned after it was taken out.

use std::{
    collections::HashSet,
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::MapData;

use super::{error::DataplaneError, pins::Pins, sys};

/// A pinned array of maps.
pub struct Outer {
    name: &'static str,
    map: MapData,
    entries: u32,
    inner: PathBuf,
}

impl Outer {
    pub fn open(pins: &Pins, name: &'static str) -> Result<Self, DataplaneError> {
        let opened = |error| DataplaneError::map(name, "open", error);
        let map = MapData::from_pin(pins.map(name)).map_err(opened)?;
        let entries = map.info().map_err(opened)?.max_entries();
        Ok(Self { name, map, entries, inner: pins.inner_maps() })
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
        map.map(Some).map_err(|error| DataplaneError::map(self.name, "open a part of", error))
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
        sys::put_map(self.map.fd().as_fd(), index, map.fd().as_fd()).map_err(|error| {
            DataplaneError::io(format!("put a map into map `{}`", self.name), error)
        })?;
        if let Some(before) = before {
            // Programs that still use it hold it themselves.
            let _ = fs::remove_file(self.pin(before));
        }
        Ok(())
    }

    fn id(&self, index: u32) -> Result<Option<u32>, DataplaneError> {
        sys::inner_map_id(self.map.fd().as_fd(), index)
            .map_err(|error| DataplaneError::io(format!("read map `{}`", self.name), error))
    }

    fn ids(&self) -> Result<Vec<u32>, DataplaneError> {
        // Arrays are filled from the start.
        (0..self.entries).map_while(|index| self.id(index).transpose()).collect()
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
