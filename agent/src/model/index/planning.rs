//! Plans the services that changed.

use std::sync::Arc;

use jiff::Timestamp;

use super::Index;
use crate::model::{
    conflict::Claims,
    endpoints::ThisNode,
    frontends::{service_frontends, too_large},
    object::{ObjectName, TrafficPolicy},
    plan::{self, Cause, Frontend, Plan, ServicePlan},
};

/// Maximum number of causes that are kept for a service between two plannings.
const MAX_CAUSES: usize = 1024;

/// Parts of the plan that changed.
#[derive(Debug, Default)]
pub struct Changes {
    pub services: Vec<ServicePlan>,
    /// One of them may have an address that another one had, so they must be written together.
    pub addresses_moved: bool,
}

impl Index {
    /// The parts of the plan that changed since the last call of this function or of [`Self::plan`].
    pub fn changes(&mut self) -> Changes {
        self.changes_except(|_| false)
    }

    /// As [`Self::changes`], without the services for which `later` returns true: those are planned by a later
    /// call. When an address moves, all services are planned, because the new owner may be one of them.
    pub fn changes_except(&mut self, later: impl Fn(&ObjectName) -> bool) -> Changes {
        self.refresh(&later);
        if self.addresses_moved {
            self.refresh(&|_| false);
        }
        let services = std::mem::take(&mut self.changed)
            .into_iter()
            .map(|(service, causes)| ServicePlan { causes, ..self.planned_of(&service) })
            .collect();
        Changes { services, addresses_moved: std::mem::take(&mut self.addresses_moved) }
    }

    /// Whether a service has changes that are not planned yet.
    #[must_use]
    pub fn is_waiting(&self, service: &ObjectName) -> bool {
        self.dirty.contains_key(service)
    }

    /// Whether any service has changes that are not planned yet.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The plan as of the last change. A frontend that is equal to the one in the previous plan is
    /// the same allocation ([`Arc::ptr_eq`]).
    pub fn plan(&mut self) -> Plan {
        self.refresh(&|_| false);
        self.changed.clear();
        self.addresses_moved = false;
        self.planned()
    }

    /// The plan as last returned by [`Self::plan`] or [`Self::changes`]. Plans nothing.
    #[must_use]
    pub fn planned(&self) -> Plan {
        let frontends = self
            .services
            .values()
            .flat_map(|state| self.conflicts.survivors(&state.frontends).cloned())
            .collect();
        Plan { node: Arc::clone(&self.node_name), frontends }
    }

    /// A service's part of [`Self::planned`].
    #[must_use]
    pub fn planned_of(&self, service: &ObjectName) -> ServicePlan {
        let frontends = self.services.get(service).map_or_else(Vec::new, |state| {
            self.conflicts.survivors(&state.frontends).cloned().collect()
        });
        ServicePlan { service: service.clone(), frontends, causes: Vec::new() }
    }

    /// Marks a service, if it exists, to be planned again.
    pub(super) fn touch(&mut self, service: ObjectName, triggered: Option<Timestamp>) {
        if self.services.contains_key(&service) {
            let cause = self.cause(triggered);
            let causes = self.dirty.entry(service).or_default();
            if causes.len() < MAX_CAUSES {
                causes.extend(cause);
            }
        }
    }

    /// Marks the services that depend on which node has which address: those with NodePorts and the traffic
    /// policy Local.
    fn touch_services_of_other_nodes(&mut self) {
        let services: Vec<ObjectName> = self
            .services
            .values()
            .map(|state| &state.service)
            .filter(|service| {
                service.external_traffic_policy == TrafficPolicy::Local
                    && service.ports.iter().any(|port| port.node_port.is_some())
            })
            .map(|service| service.name.clone())
            .collect();
        services.into_iter().for_each(|service| self.touch(service, None));
    }

    pub(super) fn cause(&self, triggered: Option<Timestamp>) -> Option<Cause> {
        self.arrived.map(|arrived| Cause { arrived, triggered })
    }

    pub(super) fn record_change(&mut self, service: ObjectName, causes: Vec<Cause>) {
        let changed = self.changed.entry(service).or_default();
        changed.extend(causes);
        changed.truncate(MAX_CAUSES);
    }

    /// Records the claims of a service. Services that win or lose an address change too.
    pub(super) fn claim(&mut self, before: Option<Claims<'_>>, now: Option<Claims<'_>>) {
        if let Some(affected) = self.conflicts.update(before, now) {
            // Without a conflict, a new service takes no address from another one.
            self.addresses_moved |= before.is_some() || !affected.is_empty();
            for service in affected {
                self.record_change(service, Vec::new());
            }
        }
    }

    /// Plans the services that have changes, except those for which `later` returns true.
    fn refresh(&mut self, later: &impl Fn(&ObjectName) -> bool) {
        if std::mem::take(&mut self.others_changed) {
            self.touch_services_of_other_nodes();
        }
        for (name, causes) in std::mem::take(&mut self.dirty) {
            if later(&name) {
                self.dirty.insert(name, causes);
                continue;
            }
            let node = ThisNode {
                name: &self.node_name,
                zone: self.node.as_ref().and_then(|node| node.zone.as_deref()),
            };
            let Some(state) = self.services.get_mut(&name) else { continue };
            let frontends = service_frontends(
                &state.service,
                self.slices.of(&name),
                node,
                self.others.as_ref(),
            );
            let frontends = share(frontends, &state.frontends);
            match too_large(&name, &frontends) {
                Some(error) => self.oversized.insert(name.clone(), error),
                None => self.oversized.remove(&name),
            };
            let created = state.service.created;
            let is_same = frontends.len() == state.frontends.len()
                && frontends.iter().zip(&state.frontends).all(|(a, b)| Arc::ptr_eq(a, b));
            let was_retained = std::mem::take(&mut state.was_retained);
            if is_same && created == state.claimed_since && !was_retained {
                continue;
            }
            let before = std::mem::replace(&mut state.frontends, frontends.clone());
            let claimed_since = std::mem::replace(&mut state.claimed_since, created);
            let before = (!before.is_empty()).then_some(before);
            self.claim(
                before.as_deref().map(|before| Claims::since(claimed_since, before)),
                Some(Claims::since(created, &frontends)),
            );
            // Also for the same frontends with another creation time, which may win or lose addresses.
            self.record_change(name, causes);
        }
    }
}

/// Wraps the new frontends, and reuses the old allocation of unchanged ones. Both lists are in the plan's
/// order, so one pass finds all of them.
fn share(new: Vec<Frontend>, old: &[Arc<Frontend>]) -> Vec<Arc<Frontend>> {
    let mut old = old.iter().peekable();
    new.into_iter()
        .map(|frontend| {
            while old.next_if(|previous| plan::order(previous, &frontend).is_lt()).is_some() {}
            old.peek()
                .filter(|previous| ****previous == frontend)
                .map_or_else(|| Arc::new(frontend), |previous| Arc::clone(previous))
        })
        .collect()
}
