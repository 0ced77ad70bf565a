//! What a sync did, and what it could not do.

use std::collections::BTreeSet;

use sockline_ebpf::{frontend::FrontendKey, id::ServiceId};

use crate::dataplane::{error::DataplaneError, maps::service_names::ServiceKey};

/// Something that a sync could not do.
#[derive(Debug)]
pub struct SyncError {
    /// A service port, `ns/name:port/TCP`.
    pub object: String,
    /// `None` if it is not known which one it was.
    pub port: Option<ServiceKey>,
    pub error: DataplaneError,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct SyncReport {
    pub services_changed: usize,
    pub services_removed: usize,
    /// Services that stay as an earlier agent left them: [`crate::dataplane::UnconfirmedPolicy::Retain`].
    pub services_unconfirmed: usize,
    /// Services that were removed because what an earlier agent left is too old:
    /// [`crate::dataplane::RestoredState::Stale`].
    pub services_released: usize,
    /// Services that did not fit or could not be written; they keep what they had.
    pub errors: Vec<SyncError>,
    /// Endpoints that left a service port.
    pub backends_removed: usize,
    pub removed: Vec<Removed>,
}

/// A service port that is gone.
#[derive(Debug)]
pub struct Removed {
    pub port: ServiceKey,
    /// The id that records of its sockets have.
    pub id: ServiceId,
    /// The addresses that it had.
    pub keys: BTreeSet<FrontendKey>,
}

impl SyncReport {
    /// Adds the report of another sync.
    pub fn merge(&mut self, other: Self) {
        self.services_changed += other.services_changed;
        self.services_removed += other.services_removed;
        self.services_unconfirmed += other.services_unconfirmed;
        self.services_released += other.services_released;
        self.errors.extend(other.errors);
        self.backends_removed += other.backends_removed;
        self.removed.extend(other.removed);
    }

    pub(super) fn failed(&mut self, key: &ServiceKey, error: DataplaneError) {
        self.errors.push(SyncError { object: key.to_string(), port: Some(key.clone()), error });
    }
}
