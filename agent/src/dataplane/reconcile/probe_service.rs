//! Probe services in the maps, see [`crate::model::probe_service`].

use std::hash::{BuildHasher as _, RandomState};

use super::Reconciler;
use crate::{
    dataplane::error::DataplaneError,
    model::{
        object::ObjectName,
        plan::ServicePlan,
        probe_service::{Listeners, ProbeService},
    },
};

/// Attempts to find a free address; there are about 16 million.
const ATTEMPTS: u64 = 64;

/// Adds a probe service to the maps: all of it, or nothing.
pub fn put(
    reconciler: &mut Reconciler,
    number: u64,
    listeners: Listeners,
) -> Result<(ProbeService, ServicePlan), DataplaneError> {
    // At random, because sockets of the previous one may still be closing.
    let random = RandomState::new();
    let service = (0..ATTEMPTS)
        .map(|attempt| ProbeService::new(number, random.hash_one(attempt)))
        .find(|service| is_free(reconciler, service))
        .ok_or_else(|| DataplaneError::Unsupported("all probe addresses are in use".into()))?;
    let plan = service.plan(listeners);
    let mut report = reconciler.sync_services(std::slice::from_ref(&plan));
    match report.errors.pop() {
        None => Ok((service, plan)),
        Some(error) => {
            remove(reconciler, service.name())?;
            Err(error.error)
        }
    }
}

pub fn remove(reconciler: &mut Reconciler, service: ObjectName) -> Result<(), DataplaneError> {
    let nothing = ServicePlan { service, frontends: Vec::new(), causes: Vec::new() };
    let mut report = reconciler.sync_services(std::slice::from_ref(&nothing));
    report.errors.pop().map_or(Ok(()), |error| Err(error.error))
}

fn is_free(reconciler: &Reconciler, service: &ProbeService) -> bool {
    [service.port, service.refused_port].into_iter().all(|port| {
        !reconciler.is_taken(service.ipv4.into(), port)
            && !reconciler.is_taken(service.ipv6.into(), port)
    })
}
