//! Connections of endpoints that are gone: what they counted stays with their service, so that its
//! total never goes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError};

use super::{
    error::DataplaneError,
    maps::{self, RETIRED},
    pins::Pins,
};

/// Held while a count moves from a backend to its service, and while both are summed up: nobody
/// sees it twice or not at all.
#[derive(Debug, Clone, Default)]
pub struct Moving(Arc<Mutex<()>>);

impl Moving {
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Service id → connections of its former backends.
pub struct Retired {
    map: HashMap<MapData, u32, u64>,
    moving: Moving,
}

impl Retired {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { map: maps::open_retired(pins)?, moving: Moving::default() })
    }

    pub const fn moving(&self) -> &Moving {
        &self.moving
    }

    pub fn of(&self, service: u32) -> Result<u64, DataplaneError> {
        match self.map.get(&service, 0) {
            Ok(connections) => Ok(connections),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(DataplaneError::map(RETIRED, "read", error)),
        }
    }

    pub fn add(&mut self, service: u32, connections: u64) -> Result<(), DataplaneError> {
        if connections == 0 {
            return Ok(());
        }
        let total = self.of(service)? + connections;
        self.map
            .insert(service, total, 0)
            .map_err(|error| DataplaneError::map(RETIRED, "write", error))
    }

    /// Forgets a service that is gone; absent if none of its backends ever retired.
    pub fn remove(&mut self, service: u32) {
        let _ = self.map.remove(&service);
    }
}
