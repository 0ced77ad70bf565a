//! Writes a probe service into the maps while no agent runs.

use super::{Limits, Reconciler, probe_service};
use crate::{
    dataplane::{
        error::DataplaneError,
        pinning::{
            layout::Pins,
            lock::{Lock, READERS_TIMEOUT},
        },
        retention::UnconfirmedPolicy,
    },
    model::probe_service::{Listeners, ProbeService},
};

/// Holds the lock on the pins in place of an agent. Restores the maps as an agent does at its
/// start, and changes no service but probe services.
pub struct Standalone {
    reconciler: Reconciler,
    _lock: Lock,
}

/// Why there is no [`Standalone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Another process holds the lock.
    Locked,
    /// The maps are inconsistent. A probe service could overwrite something that is in use.
    Unsound,
}

impl Standalone {
    /// Opens the maps. Removes the probe services of a check that was killed.
    pub fn open(pins: &Pins) -> Result<Result<Self, Refused>, DataplaneError> {
        let Some(lock) = pins.lock_within(READERS_TIMEOUT)? else {
            return Ok(Err(Refused::Locked));
        };
        let Some(mut reconciler) = Reconciler::open_if_sound(pins, Limits::default())? else {
            return Ok(Err(Refused::Unsound));
        };
        // There is no plan here, so nothing else may be removed.
        reconciler.set_unconfirmed_policy(UnconfirmedPolicy::Retain);
        for service in reconciler.probe_services() {
            probe_service::remove(&mut reconciler, service)?;
        }
        Ok(Ok(Self { reconciler, _lock: lock }))
    }

    /// Adds a probe service to the maps: all of it, or nothing.
    pub fn put_probe_service(
        &mut self,
        listeners: Listeners,
    ) -> Result<ProbeService, DataplaneError> {
        probe_service::put(&mut self.reconciler, 0, listeners).map(|(service, _)| service)
    }

    pub fn remove_probe_service(&mut self, service: &ProbeService) -> Result<(), DataplaneError> {
        probe_service::remove(&mut self.reconciler, service.name())
    }
}
