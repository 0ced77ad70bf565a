//! Decides which sockets to close, from the maps and the objects. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use sockline_ebpf::{
    address::Address,
    frontend,
    id::{BackendId, ServiceId},
};

use crate::{
    dataplane::{Owners, ServiceKey, StaleSocket},
    helper::{Action, CloseTarget, Outcome},
    model::object::{ObjectName, Protocol},
};

/// How many times a socket is searched. A program writes a socket's record a moment before the kernel
/// connects the socket, so one search can be too early.
const MAX_SEARCHES: u8 = 3;
/// How long the annotation of a deleted service is kept if it has no known socket.
const FORMER_TTL: Duration = Duration::from_secs(60);

type At = (IpAddr, u16);

/// What a decision needs from the objects.
pub trait Objects {
    /// Where a service port is still served, if known; see [`crate::model::index::Index::serving`].
    fn serving(&self, service: &ServiceKey) -> Option<HashSet<At>>;
    /// `sockline.dev/close-on-removal` of a service.
    fn close_on_removal(&self, service: &ObjectName) -> Option<Duration>;
}

/// Decides, and keeps deadlines and the number of searches for each socket.
#[derive(Debug, Default)]
pub struct Decider {
    /// Since when a backend is known to be gone. Starts again with a restart of the agent.
    since: HashMap<RemovedBackend, Instant>,
    searches: HashMap<SearchKey, u8>,
    /// The last deleted service port by TCP address.
    former: HashMap<At, Former>,
    spared: bool,
}

/// A deleted service port.
#[derive(Debug, Clone, Copy)]
struct Former {
    /// As in the records of its sockets.
    id: ServiceId,
    /// Its `close-on-removal`.
    after: Duration,
    removed: Instant,
}

/// A backend of the service at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RemovedBackend {
    service: At,
    backend: BackendId,
    generation: u32,
}

/// A socket's record that was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SearchKey {
    cookie: u64,
    backend: BackendId,
    generation: u32,
    closes_tcp: bool,
}

/// A socket to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub socket: StaleSocket,
    pub request: CloseTarget,
    /// The service's name, for the log.
    pub service: String,
    search: SearchKey,
}

/// Whether to search a socket again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Yes,
    No,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub targets: Vec<Target>,
    /// When the next socket is due.
    pub next: Option<Instant>,
}

impl Decider {
    /// Records that the service port with this id was deleted, with its `close-on-removal`.
    pub fn removed(
        &mut self,
        id: ServiceId,
        addresses: impl IntoIterator<Item = At>,
        after: Duration,
    ) {
        let former = Former { id, after, removed: Instant::now() };
        self.former.extend(addresses.into_iter().map(|at| (at, former)));
    }

    /// Whether the last decision kept sockets because their endpoint still serves.
    pub const fn has_spared(&self) -> bool {
        self.spared
    }

    /// Decides about all sockets whose backend is gone. `first_removal` is when the first backend was
    /// removed since the last decision.
    pub fn decide(
        &mut self,
        sockets: &[StaleSocket],
        owners: &HashMap<At, Owners>,
        objects: &impl Objects,
        first_removal: Instant,
        now: Instant,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut serving = Serving { objects, known: HashMap::new() };
        let mut removed_backends = HashMap::new();
        let mut searches = HashMap::new();
        self.spared = false;
        for socket in sockets {
            let (service, backend) = (socket.service(), socket.backend());
            let (id, generation) = (socket.record.backend, socket.record.generation);
            let removed = RemovedBackend { service, backend: id, generation };
            let since = self.since.get(&removed).copied().unwrap_or(first_removal);
            removed_backends.insert(removed, since);
            let owners = owners.get(&service).cloned().unwrap_or_default();
            let after = match &owners.tcp {
                Some(key) => objects.close_on_removal(&key.service),
                None => self.former_of(socket),
            };
            let protocols = protocols(socket, &owners);
            let spared = &mut self.spared;
            let mut close_unless_served = |owner: &Option<ServiceKey>| {
                if owner.as_ref().is_some_and(|key| serving.contains(key, backend)) {
                    *spared = true;
                    Action::Keep
                } else {
                    Action::Close
                }
            };
            let udp = match protocols {
                Protocols::Tcp => Action::Ignore,
                Protocols::Udp | Protocols::Either => close_unless_served(&owners.udp),
            };
            let mut tcp = match protocols {
                Protocols::Udp => Action::Ignore,
                Protocols::Tcp | Protocols::Either if after.is_none() => Action::Keep,
                Protocols::Tcp | Protocols::Either => close_unless_served(&owners.tcp),
            };
            if let (Action::Close, Some(after)) = (tcp, after) {
                let due = since + after;
                if due > now {
                    decision.next = Some(decision.next.map_or(due, |next| next.min(due)));
                    tcp = Action::Keep;
                }
            }
            if udp != Action::Close && tcp != Action::Close {
                continue;
            }
            let closes_tcp = tcp == Action::Close;
            let search = SearchKey { cookie: socket.cookie, backend: id, generation, closes_tcp };
            let count = self.searches.get(&search).copied().unwrap_or(0);
            // A socket may be in the table and in the overflow hash.
            let is_first = searches.insert(search, count).is_none();
            if is_first && count < MAX_SEARCHES {
                let (address, port) = backend;
                decision.targets.push(Target {
                    socket: *socket,
                    request: CloseTarget { cookie: socket.cookie, address, port, udp, tcp },
                    service: name(&owners, service),
                    search,
                });
            }
        }
        self.former.retain(|at, former| {
            now.duration_since(former.removed) < FORMER_TTL
                || removed_backends.keys().any(|removed| programmed(removed.service).contains(at))
        });
        // Drops entries that are no longer in the maps.
        self.since = removed_backends;
        self.searches = searches;
        decision
    }

    /// `close-on-removal` of the deleted service that had a socket's address. A NodePort at the addresses of
    /// other nodes is recorded at the unspecified address, which matches any address with that port. So
    /// there the socket's record must have the service's id.
    fn former_of(&self, socket: &StaleSocket) -> Option<Duration> {
        let [own, at_all_nodes] = programmed(socket.service()).map(|at| self.former.get(&at));
        let is_its_own = |former: &&Former| former.id == socket.record.service;
        own.or_else(|| at_all_nodes.filter(is_its_own)).map(|former| former.after)
    }

    /// Records the outcome for a socket. Returns whether to search it again.
    pub fn record_outcome(&mut self, target: &Target, outcome: &Outcome) -> Retry {
        let count = self.searches.entry(target.search).or_default();
        *count = match outcome {
            Outcome::ClosedUdp | Outcome::ClosedTcp => MAX_SEARCHES,
            Outcome::Kept | Outcome::Missing | Outcome::Failed(_) => count.saturating_add(1),
        };
        if *count < MAX_SEARCHES { Retry::Yes } else { Retry::No }
    }
}

/// The addresses in the maps for the service address that a socket dialled, as the programs look it
/// up: one address for all of the local host, and the unspecified address for NodePorts of other
/// nodes.
fn programmed((address, port): At) -> [At; 2] {
    let dialled = Address::from(address);
    let own = dialled.as_loopback().unwrap_or(dialled);
    [own, own.to_unspecified()].map(|address| (address.into(), port))
}

/// What a socket may be.
enum Protocols {
    Tcp,
    Udp,
    Either,
}

/// If the socket's record is too old to tell, the owners of the service address do, unless it has both or none.
fn protocols(socket: &StaleSocket, owners: &Owners) -> Protocols {
    match (socket.record.protocol(), &owners.tcp, &owners.udp) {
        (Some(frontend::Protocol::Tcp), ..) | (_, Some(_), None) => Protocols::Tcp,
        (Some(frontend::Protocol::Udp), ..) | (_, None, Some(_)) => Protocols::Udp,
        (_, _, _) => Protocols::Either,
    }
}

fn name(owners: &Owners, (address, port): At) -> String {
    match owners.udp.as_ref().or(owners.tcp.as_ref()) {
        Some(key) => key.service.to_string(),
        None => format!("a removed service at {}", std::net::SocketAddr::new(address, port)),
    }
}

/// Caches the serving endpoints of each service.
struct Serving<'a, O> {
    objects: &'a O,
    known: HashMap<ServiceKey, Option<HashSet<At>>>,
}

impl<O: Objects> Serving<'_, O> {
    fn contains(&mut self, key: &ServiceKey, backend: At) -> bool {
        // While that is unknown, nothing is closed.
        let is_there =
            |serving: &Option<HashSet<At>>| serving.as_ref().is_none_or(|s| s.contains(&backend));
        if let Some(serving) = self.known.get(key) {
            return is_there(serving);
        }
        let serving = self.objects.serving(key);
        let contains = is_there(&serving);
        self.known.insert(key.clone(), serving);
        contains
    }
}

impl Objects for crate::model::index::Index {
    fn serving(&self, key: &ServiceKey) -> Option<HashSet<At>> {
        Self::serving(self, &key.service, &key.port_name, key.protocol)
    }

    fn close_on_removal(&self, service: &ObjectName) -> Option<Duration> {
        Self::close_on_removal(self, service)
    }
}

/// Whether a service port is TCP.
pub const fn is_tcp(key: &ServiceKey) -> bool {
    matches!(key.protocol, Protocol::Tcp)
}

#[cfg(test)]
mod tests;
