//! The probe services that clients of the admin socket have in the maps.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dataplane::Dataplane,
    model::{
        plan::{Frontend, ServicePlan},
        probe_service::{Listeners, ProbeService},
    },
};

/// How many checks may run in parallel.
const MAX_PARALLEL: usize = 8;

#[derive(Default)]
pub struct ProbeServices {
    services: BTreeMap<u64, ServicePlan>,
    last_number: u64,
}

impl ProbeServices {
    /// Adds one to the maps.
    pub fn add(
        &mut self,
        dataplane: &mut Dataplane,
        listeners: Listeners,
    ) -> Result<ProbeService, String> {
        if self.services.len() >= MAX_PARALLEL {
            return Err(format!("{MAX_PARALLEL} checks run already"));
        }
        self.last_number += 1;
        let (service, plan) = dataplane
            .put_probe_service(self.last_number, listeners)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.services.insert(service.number, plan);
        Ok(service)
    }

    pub fn remove(&mut self, dataplane: &mut Dataplane, service: &ProbeService) {
        self.services.remove(&service.number);
        if let Err(error) = dataplane.remove_probe_service(service) {
            tracing::warn!("cannot remove a probe service: {:#}", anyhow::Error::from(error));
        }
    }

    /// The frontends that each full plan needs as well, so that a full sync keeps them.
    pub fn frontends(&self) -> impl Iterator<Item = Arc<Frontend>> {
        self.services.values().flat_map(|plan| plan.frontends.iter().cloned())
    }
}
