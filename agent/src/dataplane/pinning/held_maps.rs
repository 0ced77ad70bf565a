//! The pinned maps, held open: if their pins or the whole directory are removed, they stay in use
//! and can be pinned again.

use std::os::fd::{AsFd as _, OwnedFd};

use super::{
    layout::{INNER, Pins},
    removal,
};
use crate::{
    bpf::{
        pin::{self, Id},
        syscall,
    },
    dataplane::error::DataplaneError,
};

pub struct HeldMaps {
    maps: Vec<Map>,
}

struct Map {
    name: &'static str,
    id: u32,
    map: OwnedFd,
}

impl HeldMaps {
    /// Opens every map of these names, and removes what else is pinned among them. Maps that grow are replaced
    /// by larger ones; the code that grows them updates their pins.
    pub fn open(
        pins: &Pins,
        names: &[&'static str],
        growable: &[&str],
    ) -> Result<Self, DataplaneError> {
        let fixed = names.iter().filter(|name| !growable.contains(name));
        let maps = fixed.map(|&name| {
            let failed = |error| {
                DataplaneError::io(format!("open the pin {}", pins.map(name).display()), error)
            };
            let map = syscall::open_pinned(&pins.map(name)).map_err(failed)?;
            let id = syscall::map_id(map.as_fd()).map_err(failed)?;
            Ok(Map { name, id, map })
        });
        let maps = maps.collect::<Result<_, DataplaneError>>()?;
        let known: Vec<&str> = names.iter().copied().chain([INNER]).collect();
        removal::remove_stale(&pins.maps(), &known, &[]);
        Ok(Self { maps })
    }

    /// Pins maps again whose pin is missing or is another object's, and adds their number to
    /// `repaired`. An error with one does not stop the others.
    pub fn repair(&self, pins: &Pins, repaired: &mut usize) -> Result<(), DataplaneError> {
        let mut result = Ok(());
        for Map { name, id, map } in &self.maps {
            match pin::ensure(map.as_fd(), Id::Map(*id), &pins.map(name)) {
                Ok(was_lost) => *repaired += usize::from(was_lost),
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }
}
