//! Which service port, and which pod, an event is about.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sockline_ebpf::id::{BackendId, ServiceId};
use tokio::sync::oneshot;

use crate::{
    cgroups,
    dataplane::{Event, Events, ServiceKey, What},
    log_on_change::LogOnChange,
    model::object::ObjectName,
    status::PodRef,
};

/// How long a name of a service is used: its id may get another one.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How long a cgroup without a pod, or a pod without a name, is not looked up again.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// How long to wait for the control loop: less than events stay switched on, and more than a full sync takes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Entries of each cache; it starts again then.
const MAX_ENTRIES: usize = 1 << 16;

/// Asks the control loop for the names of pods by their UIDs.
#[derive(Debug)]
pub struct PodQuery {
    pub uids: Vec<String>,
    pub reply: oneshot::Sender<HashMap<String, ObjectName>>,
}

pub type AskPods = Box<dyn Fn(PodQuery) + Send + Sync>;

/// Names that were looked up, for as long as they are valid.
pub struct Names {
    /// The cgroup that all pods are below.
    top: Arc<PathBuf>,
    ask_pods: AskPods,
    services: HashMap<ServiceId, (Option<ServiceKey>, Instant)>,
    service_names: ServiceNames,
    /// By the id of a client's cgroup. The kernel does not use an id again.
    clients: HashMap<u64, Client>,
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

struct Client {
    pod: Option<PodRef>,
    /// When to look it up again; `None` if all is known.
    expires: Option<Instant>,
}

impl Names {
    pub fn new(top: PathBuf, ask_pods: AskPods) -> Self {
        Self {
            top: Arc::new(top),
            ask_pods,
            services: HashMap::new(),
            service_names: ServiceNames::default(),
            clients: HashMap::new(),
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
        self.find_clients(events).await;
    }

    pub fn service(&self, service: ServiceId) -> Option<&ServiceKey> {
        self.services.get(&service)?.0.as_ref()
    }

    pub fn pod(&self, cgroup: u64) -> Option<PodRef> {
        self.clients.get(&cgroup)?.pod.clone()
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

    async fn find_clients(&mut self, events: &[Event]) {
        if self.clients.len() >= MAX_ENTRIES {
            self.clients.clear();
        }
        let now = Instant::now();
        let is_known = |cgroup: &u64| {
            let client = self.clients.get(cgroup);
            client.is_some_and(|client| client.expires.is_none_or(|expires| expires > now))
        };
        let wanted: HashSet<u64> = events
            .iter()
            .map(|event| event.cgroup)
            .filter(|cgroup| *cgroup != 0 && !is_known(cgroup))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let (top, ids) = (Arc::clone(&self.top), wanted.clone());
        let paths = tokio::task::spawn_blocking(move || cgroups::paths_of(&top, ids));
        let paths = paths.await.unwrap_or_default();
        let uids: HashMap<u64, Option<String>> =
            paths.iter().map(|(&id, path)| (id, cgroups::pod_of(path))).collect();
        let names = self.pod_names(uids.values().flatten().cloned().collect()).await;
        for cgroup in wanted {
            let later = Some(now + UNKNOWN_FOR);
            let client = match uids.get(&cgroup) {
                // It has been removed, or is not below the top.
                None => Client { pod: None, expires: later },
                Some(None) => Client { pod: None, expires: None },
                Some(Some(uid)) => {
                    let name = names.get(uid);
                    let expires = if name.is_some() { None } else { later };
                    Client { pod: Some(PodRef::new(name, uid)), expires }
                }
            };
            // What was known of a pod stays when it has ended.
            match self.clients.get_mut(&cgroup) {
                Some(known) if known.pod.is_some() && client.pod.is_none() => {
                    known.expires = later;
                }
                _ => {
                    self.clients.insert(cgroup, client);
                }
            }
        }
    }

    async fn pod_names(&self, uids: HashSet<String>) -> HashMap<String, ObjectName> {
        if uids.is_empty() {
            return HashMap::new();
        }
        let (reply, received) = oneshot::channel();
        (self.ask_pods)(PodQuery { uids: uids.into_iter().collect(), reply });
        match tokio::time::timeout(TIMEOUT, received).await {
            Ok(Ok(names)) => names,
            _ => HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

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
