//! The test services that clients of the admin socket have in the maps.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dataplane::Dataplane,
    model::{
        plan::{Frontend, ServicePlan},
        test_service::{Listeners, TestService},
    },
};

/// Checks that may run side by side.
const AT_MOST: usize = 8;

#[derive(Default)]
pub struct TestServices {
    placed: BTreeMap<u64, ServicePlan>,
    last: u64,
}

impl TestServices {
    /// Puts one into the maps.
    pub fn put(
        &mut self,
        dataplane: &mut Dataplane,
        listeners: Listeners,
    ) -> Result<TestService, String> {
        if self.placed.len() >= AT_MOST {
            return Err(format!("{AT_MOST} checks run already"));
        }
        self.last += 1;
        let (service, plan) = dataplane
            .put_test(self.last, listeners)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.placed.insert(service.number, plan);
        Ok(service)
    }

    pub fn remove(&mut self, dataplane: &mut Dataplane, service: &TestService) {
        self.placed.remove(&service.number);
        if let Err(error) = dataplane.remove_test(service) {
            tracing::warn!("cannot remove a test service: {:#}", anyhow::Error::from(error));
        }
    }

    /// What a plan of everything must have as well, so that a sync leaves them where they are.
    pub fn frontends(&self) -> impl Iterator<Item = Arc<Frontend>> {
        self.placed.values().flat_map(|plan| plan.frontends.iter().cloned())
    }
}
