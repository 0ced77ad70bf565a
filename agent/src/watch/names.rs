//! Which service port, and which pod, an event is about.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use sockline_ebpf::id::{BackendId, ServiceId};

use crate::{
    dataplane::{Event, Events, ServiceKey, What},
    log_on_change::LogOnChange,
    workloads::{AskPods, Client, Resolver},
};

/// How long a name of a service is used: its id may get another one.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Entries of each cache; it starts again then.
const MAX_ENTRIES: usize = 1 << 16;

/// Names that were looked up, for as long as they are valid.
pub struct Names {
    services: HashMap<ServiceId, (Option<ServiceKey>, Instant)>,
    service_names: ServiceNames,
    clients: Resolver,
    /// Addresses of backends, by id and generation: an event of one that was removed has none.
    backends: HashMap<(BackendId, u32), SocketAddr>,
}

/// Reads the name of a service port from an open map.
type ReadName = Box<dyn Fn(ServiceId) -> Option<ServiceKey> + Send + Sync>;

/// The map of names that was opened last. While it cannot be opened again, such as after its pin was removed and before
/// the agent has pinned it again, that one is read: an event without a name would hide its service, and show a probe of
/// `sockline check`.
struct ServiceNames {
    last: Option<ReadName>,
    log: LogOnChange,
}

impl Default for ServiceNames {
    fn default() -> Self {
        Self { last: None, log: LogOnChange::new("cannot read the names of services for events") }
    }
}

impl ServiceNames {
    fn latest(&mut self, opened: Result<ReadName, impl Error + 'static>) -> Option<&ReadName> {
        self.log.record(opened.as_ref().map(drop).map_err(|error| error as &dyn Error));
        if let Ok(opened) = opened {
            self.last = Some(opened);
        }
        self.last.as_ref()
    }
}

impl Names {
    /// `top` is the cgroup that all pods are below.
    pub fn new(top: PathBuf, ask_pods: AskPods) -> Self {
        Self {
            services: HashMap::new(),
            service_names: ServiceNames::default(),
            clients: Resolver::new(top, ask_pods),
            backends: HashMap::new(),
        }
    }

    pub fn clear(&mut self) {
        self.services.clear();
        self.clients.clear();
        self.backends.clear();
    }

    /// Looks up what these events need.
    pub async fn prepare(&mut self, source: &Events, events: &[Event]) {
        self.find_services(source, events);
        self.clients.prepare(events.iter().map(|event| event.cgroup)).await;
    }

    pub fn service(&self, service: ServiceId) -> Option<&ServiceKey> {
        self.services.get(&service)?.0.as_ref()
    }

    /// What is known of the client in this cgroup.
    pub fn client(&self, cgroup: u64) -> Client {
        self.clients.client(cgroup).cloned().unwrap_or_default()
    }

    /// The address of the event's backend.
    pub fn backend(&mut self, source: &Events, event: &Event) -> Option<SocketAddr> {
        if let What::Refused(_) = event.what {
            return None;
        }
        if let Some(address) = event.backend_address.or_else(|| source.backend(event.backend)) {
            if self.backends.len() >= MAX_ENTRIES {
                self.backends.clear();
            }
            self.backends.insert(event.backend, address);
            return Some(address);
        }
        self.backends.get(&event.backend).copied()
    }

    fn find_services(&mut self, source: &Events, events: &[Event]) {
        if self.services.len() >= MAX_ENTRIES {
            self.services.clear();
        }
        let is_known = |service: &ServiceId| {
            self.services.get(service).is_some_and(|(_, read)| read.elapsed() < MAX_AGE)
        };
        let wanted: HashSet<ServiceId> =
            events.iter().map(|event| event.service).filter(|service| !is_known(service)).collect();
        if wanted.is_empty() {
            return;
        }
        let opened = source.service_names().map(|read| Box::new(read) as ReadName);
        let Some(read) = self.service_names.latest(opened) else { return };
        for service in wanted {
            let before = self.services.remove(&service).and_then(|(key, _)| key);
            // The end of a connection may come after its service was deleted.
            let key = read(service).or(before);
            self.services.insert(service, (key, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::model::object::ObjectName;

    #[test]
    fn names_stay_while_their_map_cannot_be_opened() {
        let key = |name: &str| ServiceKey {
            service: ObjectName::new("shop", name),
            port_name: "web".into(),
            protocol: crate::model::object::Protocol::Tcp,
        };
        let opened = |name: &'static str| -> Result<ReadName, io::Error> {
            Ok(Box::new(move |_| Some(key(name))))
        };
        let failed = || Err(io::Error::other("its pin is gone"));
        let mut names = ServiceNames::default();
        let mut read = |opened| names.latest(opened).and_then(|read| read(ServiceId(1)));
        assert_eq!(read(failed()), None);
        assert_eq!(read(opened("cart")), Some(key("cart")));
        assert_eq!(read(failed()), Some(key("cart")));
        assert_eq!(read(opened("ship")), Some(key("ship")));
        assert_eq!(names.log.error(), None);
    }
}
