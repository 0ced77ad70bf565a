//! Service ports that are not in the kernel as planned, and when to try them again: soon after some
//! map has more room, and with each tick of the control loop. Other services change meanwhile.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    agent::status_publisher::UnsyncedPort,
    dataplane::{DataplaneError, SyncError},
    error_chain::chain,
    model::{object::ObjectName, plan::ServicePlan},
    status::UnsyncedObject,
};

/// Time from a freed map entry to the retry, so that entries that are freed together cost one retry.
const MIN_DELAY: Duration = Duration::from_millis(50);
/// Retries take at most one part in this many of the loop's time.
const MAX_SHARE: u32 = 20;

#[derive(Debug)]
pub struct RetryQueue {
    services: BTreeMap<ObjectName, Vec<UnsyncedPort>>,
    /// Errors that name no service: only a full sync retries them.
    others: Vec<UnsyncedPort>,
    /// NodePorts at the addresses of all other nodes.
    other_nodes: Option<UnsyncedPort>,
    due: Option<Instant>,
    delay: Duration,
    changed: bool,
}

impl Default for RetryQueue {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            others: Vec::new(),
            other_nodes: None,
            due: None,
            delay: MIN_DELAY,
            changed: false,
        }
    }
}

impl RetryQueue {
    /// Records the errors of a full sync, in place of all others.
    pub fn record_full(&mut self, errors: &[SyncError]) {
        self.services.clear();
        self.others.clear();
        self.changed = true;
        self.add(errors);
    }

    /// Records the errors of a sync of these services, in place of theirs.
    pub fn record_services<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a ServicePlan>,
        errors: &[SyncError],
    ) {
        for plan in services {
            self.changed |= self.services.remove(&plan.service).is_some();
        }
        self.add(errors);
    }

    /// Records why NodePorts are not at the addresses of all other nodes; `None` if they are.
    pub fn record_other_nodes(&mut self, error: Option<&DataplaneError>) {
        let other_nodes = error
            .map(|error| UnsyncedPort { object: UnsyncedObject::OtherNodes, reason: chain(error) });
        self.changed |= self.other_nodes != other_nodes;
        self.other_nodes = other_nodes;
    }

    fn add(&mut self, errors: &[SyncError]) {
        self.changed |= !errors.is_empty();
        for error in errors {
            let reason = chain(&error.error);
            match &error.port {
                Some(port) => {
                    let object = UnsyncedObject::ServicePort(port.clone());
                    let ports = self.services.entry(port.service.clone()).or_default();
                    ports.push(UnsyncedPort { object, reason });
                }
                None => {
                    let object = UnsyncedObject::Unknown(error.object.clone());
                    self.others.push(UnsyncedPort { object, reason });
                }
            }
        }
        if self.services.is_empty() && self.other_nodes.is_none() {
            self.due = None;
        }
    }

    /// Schedules a retry because some map has more room than before.
    pub fn room_freed(&mut self) {
        if !self.services.is_empty() || self.other_nodes.is_some() {
            self.due.get_or_insert_with(|| Instant::now() + self.delay);
        }
    }

    /// When to retry because of [`Self::room_freed`].
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Records that a retry ended, and how long it took.
    pub fn retried(&mut self, took: Duration) {
        self.due = None;
        self.delay = MIN_DELAY.max(took * MAX_SHARE);
    }

    /// Whether [`Self::ports`] may differ from what it was at the last call.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.others.is_empty() && self.other_nodes.is_none()
    }

    /// Whether a failure belongs to no service that could be tried alone.
    pub const fn needs_full_sync(&self) -> bool {
        !self.others.is_empty()
    }

    /// The services to try again, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// All service ports that are not in the kernel as planned, sorted by service.
    pub fn ports(&self) -> Vec<UnsyncedPort> {
        self.services
            .values()
            .flatten()
            .chain(&self.others)
            .chain(&self.other_nodes)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{Full, ServiceKey},
        model::object::Protocol,
    };

    fn error(name: &str) -> SyncError {
        SyncError {
            object: format!("ns/{name}:web/TCP"),
            port: Some(ServiceKey {
                service: ObjectName::new("ns", name),
                port_name: "web".into(),
                protocol: Protocol::Tcp,
            }),
            error: Full { map: "FRONTENDS", limit: 1 }.into(),
        }
    }

    fn plan(name: &str) -> ServicePlan {
        ServicePlan {
            service: ObjectName::new("ns", name),
            frontends: Vec::new(),
            causes: Vec::new(),
        }
    }

    fn names(queue: &RetryQueue) -> Vec<String> {
        queue.services().map(|service| service.name.to_string()).collect()
    }

    #[test]
    fn a_sync_of_some_services_keeps_the_errors_of_the_others() {
        let mut queue = RetryQueue::default();
        queue.record_full(&[error("a"), error("b")]);
        queue.record_services(&[plan("b"), plan("c")], &[error("c")]);
        assert_eq!(names(&queue), ["a", "c"]);
        queue.record_full(&[]);
        assert!(queue.is_empty());
    }

    #[test]
    fn room_schedules_a_retry_only_if_a_service_lacks_it() {
        let mut queue = RetryQueue::default();
        queue.room_freed();
        assert_eq!(queue.due(), None);
        queue.record_full(&[error("a")]);
        assert_eq!(queue.due(), None, "nothing was freed");
        queue.room_freed();
        assert!(queue.due().is_some());
        queue.record_services(&[plan("a")], &[]);
        assert_eq!(queue.due(), None, "it fits now");
    }

    #[test]
    fn slow_retries_are_further_apart() {
        let mut queue = RetryQueue::default();
        queue.record_full(&[error("a")]);
        queue.retried(Duration::from_secs(1));
        queue.room_freed();
        let delay = queue.due().unwrap().saturating_duration_since(Instant::now());
        assert!(delay > Duration::from_secs(15), "{delay:?}");
    }
}
