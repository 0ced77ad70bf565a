//! Test services in the maps: see [`crate::model::test_service`].

use std::hash::{BuildHasher as _, RandomState};

use super::Mirror;
use crate::{
    dataplane::error::DataplaneError,
    model::{
        object::ObjectName,
        plan::ServicePlan,
        test_service::{Listeners, TestService},
    },
};

/// Draws of a free place. There are some 16 million of them.
const DRAWS: u64 = 64;

/// Puts one into the maps: all of it, or nothing.
pub fn put(
    mirror: &mut Mirror,
    number: u64,
    listeners: Listeners,
) -> Result<(TestService, ServicePlan), DataplaneError> {
    // Drawn at random: where the last one was, sockets may still be closing.
    let random = RandomState::new();
    let service = (0..DRAWS)
        .map(|draw| TestService::new(number, random.hash_one(draw)))
        .find(|service| is_free(mirror, service))
        .ok_or_else(|| DataplaneError::Unsupported("the test addresses are all taken".into()))?;
    let plan = service.plan(listeners);
    let mut report = mirror.sync_services(std::slice::from_ref(&plan));
    match report.failures.pop() {
        None => Ok((service, plan)),
        Some(failure) => {
            remove(mirror, service.name())?;
            Err(failure.error)
        }
    }
}

pub fn remove(mirror: &mut Mirror, service: ObjectName) -> Result<(), DataplaneError> {
    let nothing = ServicePlan { service, frontends: Vec::new(), causes: Vec::new() };
    let mut report = mirror.sync_services(std::slice::from_ref(&nothing));
    report.failures.pop().map_or(Ok(()), |failure| Err(failure.error))
}

fn is_free(mirror: &Mirror, service: &TestService) -> bool {
    [service.port, service.refused_port].into_iter().all(|port| {
        !mirror.is_taken(service.ipv4.into(), port) && !mirror.is_taken(service.ipv6.into(), port)
    })
}
