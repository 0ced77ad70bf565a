//! Writing a test service into the maps while no agent runs.

use super::{Limits, Reconciler, probe_service};
use crate::{
    dataplane::{
        error::DataplaneError,
        pinning::{
            layout::Pins,
            lock::{Lock, READERS_PATIENCE},
        },
    },
    model::test_service::{Listeners, TestService},
};

/// The lock on the pins and what is in the maps, in place of an agent. Reads the maps back as an agent
/// does at its start, and changes no service but test services.
pub struct Standalone {
    reconciler: Reconciler,
    _lock: Lock,
}

/// Why there is no [`Standalone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else has the lock.
    Locked,
    /// The maps hold what no agent wrote as it is. A test service could take the place of something
    /// that is still in use.
    Unsound,
}

impl Standalone {
    /// Removes the test services of a check that was killed.
    pub fn open(pins: &Pins) -> Result<Result<Self, Refused>, DataplaneError> {
        let Some(lock) = pins.lock_within(READERS_PATIENCE)? else {
            return Ok(Err(Refused::Locked));
        };
        let Some(mut reconciler) = Reconciler::open_if_sound(pins, Limits::default())? else {
            return Ok(Err(Refused::Unsound));
        };
        // There is no plan here that could decide about anything else.
        reconciler.retain_unconfirmed(true);
        for service in reconciler.probe_services() {
            probe_service::remove(&mut reconciler, service)?;
        }
        Ok(Ok(Self { reconciler, _lock: lock }))
    }

    /// Puts a test service into the maps: all of it, or nothing.
    pub fn put_probe_service(
        &mut self,
        listeners: Listeners,
    ) -> Result<TestService, DataplaneError> {
        probe_service::put(&mut self.reconciler, 0, listeners).map(|(service, _)| service)
    }

    pub fn remove_probe_service(&mut self, service: &TestService) -> Result<(), DataplaneError> {
        probe_service::remove(&mut self.reconciler, service.name())
    }
}
