//! Services that could not be brought to the kernel, by name, and when to try again: once there is
//! more room, and now and then. Meanwhile other services change as ever.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    dataplane::{DataplaneError, Failure},
    error_chain::chain,
    model::{object::ObjectName, plan::ServicePlan},
};

/// How soon after room was made the services that may need it are tried again.
const SOON: Duration = Duration::from_millis(50);
/// Trying again takes no more than one part in so many of the time.
const SHARE: u32 = 20;

/// A service port, `ns/name:port/TCP`, and why it is not in the kernel as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOutPort {
    pub port: String,
    pub reason: String,
}

#[derive(Debug)]
pub struct LeftOut {
    services: BTreeMap<ObjectName, Vec<LeftOutPort>>,
    /// What is nobody's failure in particular: only a sync of everything mends it.
    others: Vec<LeftOutPort>,
    /// NodePorts at all other nodes' addresses.
    other_nodes: Option<LeftOutPort>,
    retry: Option<Instant>,
    pause: Duration,
    changed: bool,
}

impl Default for LeftOut {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            others: Vec::new(),
            other_nodes: None,
            retry: None,
            pause: SOON,
            changed: false,
        }
    }
}

impl LeftOut {
    /// Takes in what a sync of everything left out.
    pub fn of_all(&mut self, failures: &[Failure]) {
        self.services.clear();
        self.others.clear();
        self.changed = true;
        self.add(failures);
    }

    /// Takes in what a sync of these services left out.
    pub fn of_some<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a ServicePlan>,
        failures: &[Failure],
    ) {
        for plan in services {
            self.changed |= self.services.remove(&plan.service).is_some();
        }
        self.add(failures);
    }

    /// Takes in why NodePorts are not at all other nodes' addresses; `None` if they are.
    pub fn of_other_nodes(&mut self, error: Option<&DataplaneError>) {
        let other_nodes = error.map(|error| LeftOutPort {
            port: "NodePorts at other nodes' addresses".to_owned(),
            reason: chain(error),
        });
        self.changed |= self.other_nodes != other_nodes;
        self.other_nodes = other_nodes;
    }

    fn add(&mut self, failures: &[Failure]) {
        self.changed |= !failures.is_empty();
        for failure in failures {
            let port = LeftOutPort { port: failure.object.clone(), reason: chain(&failure.error) };
            match &failure.service {
                Some(service) => self.services.entry(service.clone()).or_default().push(port),
                None => self.others.push(port),
            }
        }
        if self.services.is_empty() && self.other_nodes.is_none() {
            self.retry = None;
        }
    }

    /// There is more room than before.
    pub fn room_was_made(&mut self) {
        if !self.services.is_empty() || self.other_nodes.is_some() {
            self.retry.get_or_insert_with(|| Instant::now() + self.pause);
        }
    }

    /// When to try again.
    pub const fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Notes that they were tried again, which took so long.
    pub fn tried(&mut self, took: Duration) {
        self.retry = None;
        self.pause = SOON.max(took * SHARE);
    }

    /// Whether anything may be other than at the last call.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.others.is_empty() && self.other_nodes.is_none()
    }

    /// Something is wrong that no single service can mend.
    pub const fn needs_everything(&self) -> bool {
        !self.others.is_empty()
    }

    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// All of it, sorted by name.
    pub fn ports(&self) -> Vec<LeftOutPort> {
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
    use crate::dataplane::{DataplaneError, Full};

    fn failure(name: &str) -> Failure {
        Failure {
            object: format!("ns/{name}:web/TCP"),
            service: Some(ObjectName::new("ns", name)),
            error: DataplaneError::Full(Full { map: "FRONTENDS", limit: 1 }),
        }
    }

    fn plan(name: &str) -> ServicePlan {
        ServicePlan {
            service: ObjectName::new("ns", name),
            frontends: Vec::new(),
            causes: Vec::new(),
        }
    }

    fn names(left_out: &LeftOut) -> Vec<String> {
        left_out.services().map(|service| service.name.to_string()).collect()
    }

    #[test]
    fn a_sync_of_some_services_says_nothing_of_the_others() {
        let mut left_out = LeftOut::default();
        left_out.of_all(&[failure("a"), failure("b")]);
        left_out.of_some(&[plan("b"), plan("c")], &[failure("c")]);
        assert_eq!(names(&left_out), ["a", "c"]);
        left_out.of_all(&[]);
        assert!(left_out.is_empty());
    }

    #[test]
    fn room_matters_only_to_somebody_who_lacks_it() {
        let mut left_out = LeftOut::default();
        left_out.room_was_made();
        assert_eq!(left_out.due(), None);
        left_out.of_all(&[failure("a")]);
        assert_eq!(left_out.due(), None, "nothing was freed");
        left_out.room_was_made();
        assert!(left_out.due().is_some());
        left_out.of_some(&[plan("a")], &[]);
        assert_eq!(left_out.due(), None, "it fits now");
    }

    #[test]
    fn what_takes_long_to_try_is_tried_less_often() {
        let mut left_out = LeftOut::default();
        left_out.of_all(&[failure("a")]);
        left_out.tried(Duration::from_secs(1));
        left_out.room_was_made();
        let pause = left_out.due().unwrap().saturating_duration_since(Instant::now());
        assert!(pause > Duration::from_secs(15), "{pause:?}");
    }
}
