//! The pinned maps, held open: whoever removes their pins, or the whole directory, takes nothing away,
//! and they can be pinned again.

use std::os::fd::{AsFd as _, OwnedFd};

use super::layout::{self, Id, Pins};
use crate::{
    bpf::{kinds::array_of_maps, syscall},
    dataplane::{error::DataplaneError, maps},
};

pub struct Kept {
    maps: Vec<Map>,
}

struct Map {
    name: &'static str,
    id: u32,
    map: OwnedFd,
}

impl Kept {
    /// Opens every map that is pinned, and removes what else is pinned among them.
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let names = maps::map_names();
        // Others take the place of those that grow, which are looked after where that happens.
        let fixed = names.iter().filter(|name| ![maps::NAMES, maps::RETIRED].contains(name));
        let maps = fixed.map(|&name| {
            let failed = |error| {
                DataplaneError::io(format!("open the pin {}", pins.map(name).display()), error)
            };
            let map = syscall::open_pinned(&pins.map(name)).map_err(failed)?;
            let id = syscall::map_id(map.as_fd()).map_err(failed)?;
            Ok(Map { name, id, map })
        });
        let maps = maps.collect::<Result<_, DataplaneError>>()?;
        let known: Vec<&str> = names.iter().copied().chain([array_of_maps::FOLDER]).collect();
        layout::remove_strays(&pins.maps(), &known, &[]);
        Ok(Self { maps })
    }

    /// Pins again what has lost its pin, or had something else pinned in place of it. Adds how many that
    /// were; one that cannot be pinned costs no other.
    pub fn repair(&self, pins: &Pins, mended: &mut usize) -> Result<(), DataplaneError> {
        let mut result = Ok(());
        for Map { name, id, map } in &self.maps {
            match layout::ensure(map.as_fd(), Id::Map(*id), &pins.map(name)) {
                Ok(was_lost) => *mended += usize::from(was_lost),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}
