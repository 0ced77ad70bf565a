//! Holds what a source last said and keeps the plan in step with it, re-planning only the services
//! that a change touches.
//!
//! Who refers to whom: an EndpointSlice names its Service (same namespace); a Service refers to
//! nothing; every Service depends on the zone of this node's Node. A slice may arrive before its
//! Service and is kept until then. A Pod depends on its Namespace; neither matters to the plan, only
//! to which pods are excluded.

mod closing;
mod pods;
mod service_addresses;
mod slices;
mod unreadable;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use self::{
    pods::Pods,
    service_addresses::ServiceAddresses,
    slices::{Slices, Touched},
    unreadable::Unreadable,
};
use super::{
    conflict::{Claims, Conflicts},
    endpoints::ThisNode,
    event::{Event, Sourced},
    exclusion::{ExcludedPod, Policy},
    frontends::{service_frontends, too_large},
    node_addresses::{NodePortScope, ServiceUse},
    object::{
        EndpointSlice, InputError, Kind, Node, Object, ObjectName, ObjectRef, Service,
        TrafficPolicy,
    },
    other_nodes::OtherNodes,
    plan::{self, Cause, Frontend, Plan, ServicePlan},
    planner::missing_node,
};

/// The objects as last reported, and the plan they make for one node.
#[derive(Debug)]
pub struct Index {
    node_name: Arc<str>,
    node: Option<Node>,
    /// Where NodePorts are served at their addresses.
    others: Option<OtherNodes>,
    /// Those have changed since services were planned.
    others_changed: bool,
    pods: Pods,
    services: BTreeMap<ObjectName, ServiceState>,
    service_addresses: ServiceAddresses,
    slices: Slices,
    /// What is wrong with single objects; only objects with problems are in it.
    object_problems: HashMap<ObjectRef, Vec<InputError>>,
    unreadable: Unreadable,
    /// Objects known of each kind, usable or not: a `Replace` removes what it does not name.
    known: HashMap<Kind, HashSet<ObjectName>>,
    /// What is wrong with the source itself.
    source_errors: Vec<InputError>,
    /// The source can read all that it has.
    complete: bool,
    /// Kinds of which a complete list was seen.
    listed: BTreeSet<Kind>,
    /// Services to plan again before the next plan is given out, and why.
    dirty: BTreeMap<ObjectName, Vec<Cause>>,
    /// Services whose part of the plan is another one than what was given out last.
    changed: BTreeMap<ObjectName, Vec<Cause>>,
    /// An address went from one service to another, or to nobody, since changes were given out.
    addresses_moved: bool,
    conflicts: Conflicts,
    /// What is wrong with services as they are planned.
    oversized: BTreeMap<ObjectName, InputError>,
    /// When the change arrived that is being taken in.
    arrived: Option<Instant>,
    /// See [`Index::take_last_words`].
    last_words: Vec<(ObjectName, Duration)>,
    /// See [`Index::take_deleted`].
    deleted: BTreeSet<ObjectName>,
    /// The uids that services had before they became unusable.
    unusable_uids: HashMap<ObjectName, Arc<str>>,
}

/// A service that changes more often than it is planned need not remember every time.
const MAX_CAUSES: usize = 1024;

/// Parts of the plan that changed.
#[derive(Debug, Default)]
pub struct Changes {
    pub services: Vec<ServicePlan>,
    /// One of them may have an address that another one had: they belong together.
    pub addresses_moved: bool,
}

#[derive(Debug)]
struct ServiceState {
    service: Service,
    /// As of the last planning; unchanged ones keep their allocation from plan to plan.
    frontends: Vec<Arc<Frontend>>,
    /// The creation time that their addresses were claimed with.
    claimed_since: Option<i64>,
    /// What changed meanwhile was not brought to the kernel.
    was_retained: bool,
}

/// Why an object leaves the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Deleted,
    /// It is there, and nothing of it can be used.
    Unreadable,
}

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub services: usize,
    pub endpoint_slices: usize,
    /// Over all slices; one in two slices counts twice.
    pub endpoints: usize,
}

impl Index {
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self {
            node_name: node_name.into(),
            node: None,
            others: None,
            others_changed: false,
            pods: Pods::new(),
            services: BTreeMap::new(),
            service_addresses: ServiceAddresses::default(),
            slices: Slices::new(),
            object_problems: HashMap::new(),
            unreadable: Unreadable::default(),
            known: HashMap::new(),
            source_errors: Vec::new(),
            complete: true,
            listed: BTreeSet::new(),
            dirty: BTreeMap::new(),
            changed: BTreeMap::new(),
            addresses_moved: false,
            conflicts: Conflicts::default(),
            oversized: BTreeMap::new(),
            arrived: None,
            last_words: Vec::new(),
            deleted: BTreeSet::new(),
            unusable_uids: HashMap::new(),
        }
    }

    /// As [`Self::new`], for a node that serves NodePorts at these addresses.
    #[must_use]
    pub fn with_node_ports(self, scope: NodePortScope) -> Self {
        let others = match scope {
            NodePortScope::ThisNode => None,
            NodePortScope::AllNodes => Some(OtherNodes::default()),
        };
        Self { others, ..self }
    }

    /// The other nodes, where their addresses matter.
    #[must_use]
    pub const fn other_nodes(&self) -> Option<&OtherNodes> {
        self.others.as_ref()
    }

    /// Whether an object is this node's Node.
    #[must_use]
    pub fn is_this_node(&self, reference: &ObjectRef) -> bool {
        reference.kind == Kind::Node && reference.name.name == self.node_name
    }

    /// As [`Self::apply`], with the time at which the source reported it.
    pub fn apply_arrived(&mut self, event: Event, arrived: Instant) {
        self.arrived = Some(arrived);
        self.apply(event);
        self.arrived = None;
    }

    /// Takes in a change. Planning waits until the next [`Self::plan`], so many changes in a row
    /// cost one.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Replace(kind, objects) => self.replace(kind, objects),
            Event::Apply(sourced) => self.put(sourced),
            Event::Delete(reference) => self.delete(&reference),
            Event::SourceErrors(problems) => self.source_errors = problems,
            Event::Complete(complete) => self.complete = complete,
        }
    }

    /// The parts of the plan that changed since the last call of this or of [`Self::plan`].
    pub fn changes(&mut self) -> Changes {
        self.changes_except(|_| false)
    }

    /// As [`Self::changes`], without the services of which `later` holds: those stay unplanned and
    /// are in the changes of a later call. When an address moves, nothing waits: who takes it up may
    /// be one of them.
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

    /// Whether a service is to be planned again.
    #[must_use]
    pub fn is_waiting(&self, service: &ObjectName) -> bool {
        self.dirty.contains_key(service)
    }

    /// Whether any is.
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

    /// The plan as it was last given out, by [`Self::plan`] or in changes; what waits stays waiting.
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

    /// Everything that is wrong at the moment, sorted, each once.
    ///
    /// Two services that claim one address are among it once they are planned.
    pub fn problems(&self) -> Vec<InputError> {
        let missing_node =
            (self.synced() && self.node.is_none()).then(|| missing_node(&self.node_name));
        let of_objects = self.object_problems.iter().flat_map(|(object, problems)| {
            let retained = self.unreadable.retained_by(object);
            let consequence = retained.map(|service| match object.kind {
                Kind::Service => "what is programmed for it stays".to_owned(),
                _ => format!("what is programmed for Service {service} stays"),
            });
            problems.iter().cloned().map(move |mut problem| {
                if let Some(consequence) = &consequence {
                    problem.set_consequence(consequence);
                }
                problem
            })
        });
        let problems: BTreeSet<InputError> = of_objects
            .chain(self.source_errors.iter().chain(self.oversized.values()).cloned())
            .chain(self.conflicts.problems())
            .chain(missing_node)
            .collect();
        problems.into_iter().collect()
    }

    /// The pod with this UID in the name of its cgroup.
    #[must_use]
    pub fn pod_of(&self, uid: &str) -> Option<&ObjectName> {
        self.pods.of_uid(uid)
    }

    /// The excluded pods of this node, by the UID in the name of their cgroup; `None` if nothing that
    /// they depend on changed since the last call.
    pub fn excluded_pods(&mut self, policy: &Policy) -> Option<BTreeMap<Arc<str>, ExcludedPod>> {
        self.pods.excluded_pods(policy, &self.node_name)
    }

    /// A complete list of every kind was seen: what is not in the plan does not exist.
    #[must_use]
    pub fn synced(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// The source can read all that it has: what it never reported does not exist.
    #[must_use]
    pub const fn complete(&self) -> bool {
        self.complete
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            endpoint_slices: self.slices.iter().count(),
            endpoints: self.slices.iter().map(|slice| slice.endpoints.len()).sum(),
        }
    }

    /// Services of which nothing can be said at the moment: what the kernel has of them is to stay,
    /// whatever is planned.
    #[must_use]
    pub const fn retained(&self) -> &BTreeSet<ObjectName> {
        self.unreadable.services()
    }

    /// Services that were deleted since the last call, also if there is another one of the same name by
    /// now: what the kernel has of the deleted one is not to stay, even if the new one is retained.
    pub fn take_deleted(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.deleted)
    }

    /// This node's own Node object.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// What services have an address for, if it is a cluster IP or a load balancer's.
    #[must_use]
    pub fn service_use(&self, address: IpAddr) -> Option<ServiceUse> {
        self.service_addresses.used(address)
    }

    /// A number that changes when [`Self::service_use`] may.
    #[must_use]
    pub const fn service_use_version(&self) -> u64 {
        self.service_addresses.version()
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Sourced>) {
        let listed: HashSet<&ObjectName> = objects.iter().map(|o| &o.reference.name).collect();
        let gone: Vec<ObjectName> = self
            .known
            .get(&kind)
            .into_iter()
            .flatten()
            .filter(|name| !listed.contains(name))
            .cloned()
            .collect();
        for name in gone {
            self.delete(&ObjectRef { kind, name });
        }
        for sourced in objects {
            self.put(sourced);
        }
        self.listed.insert(kind);
    }

    fn put(&mut self, sourced: Sourced) {
        let retained = sourced.retains();
        let Sourced { reference, object, problems, .. } = sourced;
        // The valid part counts, and it counts at once: the plan is one of the objects as they are.
        match object {
            Some(Object::Service(service)) => self.put_service(service),
            Some(Object::EndpointSlice(slice)) => self.put_slice(slice),
            Some(Object::Node(node)) => self.put_node(node),
            Some(Object::Namespace(namespace)) => self.pods.put_namespace(namespace),
            Some(Object::Pod(pod)) => self.pods.put(pod),
            None => self.remove(&reference, Removal::Unreadable),
        }
        self.known.entry(reference.kind).or_default().insert(reference.name.clone());
        self.retain(&reference, retained);
        if problems.is_empty() {
            self.object_problems.remove(&reference);
        } else {
            self.object_problems.insert(reference, problems);
        }
    }

    fn put_service(&mut self, service: Service) {
        let unusable_uid = self.unusable_uids.remove(&service.name);
        let state = self.services.get(&service.name);
        let known = state.map_or(unusable_uid.as_ref(), |state| state.service.uid.as_ref());
        if known.is_some_and(|uid| service.uid.as_ref().is_some_and(|new| new != uid)) {
            // It was deleted and another one made, between two looks.
            let reference = ObjectRef { kind: Kind::Service, name: service.name.clone() };
            self.remove(&reference, Removal::Deleted);
        }
        if let Some(state) = self.services.get_mut(&service.name) {
            if state.service != service {
                let name = service.name.clone();
                self.service_addresses.update(Some(&state.service), Some(&service));
                state.service = service;
                self.touch(name, None);
            }
        } else {
            let name = service.name.clone();
            self.service_addresses.update(None, Some(&service));
            let state = ServiceState {
                service,
                frontends: Vec::new(),
                claimed_since: None,
                was_retained: false,
            };
            self.services.insert(name.clone(), state);
            self.touch(name, None);
        }
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        for Touched { service, triggered } in self.slices.put(slice) {
            self.touch(service, triggered);
        }
    }

    fn put_node(&mut self, node: Node) {
        if node.name == self.node_name {
            self.set_node(Some(node));
        } else if let Some(others) = &mut self.others {
            self.others_changed |= others.put(&node);
        }
    }

    fn set_node(&mut self, node: Option<Node>) {
        let zone = |node: &Option<Node>| node.as_ref().and_then(|node| node.zone.clone());
        if zone(&self.node) != zone(&node) {
            let all: Vec<ObjectName> = self.services.keys().cloned().collect();
            all.into_iter().for_each(|service| self.touch(service, None));
        }
        self.node = node;
    }

    fn delete(&mut self, reference: &ObjectRef) {
        self.remove(reference, Removal::Deleted);
        self.object_problems.remove(reference);
        if let Some(known) = self.known.get_mut(&reference.kind) {
            known.remove(&reference.name);
        }
        self.retain(reference, None);
    }

    /// Takes in which service an object retains, if that service exists.
    fn retain(&mut self, object: &ObjectRef, service: Option<ObjectName>) {
        let before = self.unreadable.set(object, service.as_ref());
        let itself = (object.kind == Kind::Service).then(|| object.name.clone());
        let services: BTreeSet<ObjectName> =
            before.into_iter().chain(service).chain(itself).collect();
        for service in services {
            let services = self.known.get(&Kind::Service);
            let exists = services.is_some_and(|services| services.contains(&service));
            if !self.unreadable.update(&service, exists) {
                continue;
            }
            if let Some(state) = self.services.get_mut(&service) {
                state.was_retained = true;
                self.touch(service, None);
            } else {
                // Its addresses go to nobody only now.
                self.addresses_moved = true;
                let causes = self.cause(None).into_iter().collect();
                self.note_change(service, causes);
            }
        }
    }

    /// Takes an object out of the plan.
    fn remove(&mut self, reference: &ObjectRef, removal: Removal) {
        let name = &reference.name;
        match reference.kind {
            Kind::Service => {
                if removal == Removal::Deleted {
                    self.deleted.insert(name.clone());
                    self.unusable_uids.remove(name);
                }
                if let Some(state) = self.services.remove(name) {
                    self.oversized.remove(name);
                    self.service_addresses.update(Some(&state.service), None);
                    if removal == Removal::Unreadable
                        && let Some(uid) = &state.service.uid
                    {
                        self.unusable_uids.insert(name.clone(), Arc::clone(uid));
                    }
                    let last_word = state.service.close_on_removal;
                    if removal == Removal::Deleted {
                        self.last_words.extend(last_word.map(|after| (name.clone(), after)));
                    }
                    let mut causes = self.dirty.remove(name).unwrap_or_default();
                    causes.extend(self.cause(None));
                    self.claim(Some(Claims::since(state.claimed_since, &state.frontends)), None);
                    self.note_change(name.clone(), causes);
                }
            }
            Kind::EndpointSlice => {
                if let Some(Touched { service, .. }) = self.slices.remove(name) {
                    self.touch(service, None);
                }
            }
            Kind::Node => {
                if name.name == self.node_name {
                    self.set_node(None);
                } else if let Some(others) = &mut self.others {
                    self.others_changed |= others.remove(&name.name);
                }
            }
            Kind::Namespace => self.pods.remove_namespace(&name.name),
            Kind::Pod => self.pods.remove(name),
        }
    }

    /// Has a service planned again, if it is one.
    fn touch(&mut self, service: ObjectName, triggered: Option<Timestamp>) {
        if self.services.contains_key(&service) {
            let cause = self.cause(triggered);
            let causes = self.dirty.entry(service).or_default();
            if causes.len() < MAX_CAUSES {
                causes.extend(cause);
            }
        }
    }

    /// Only NodePorts with traffic policy Local depend on which address is whose.
    fn touch_those_at_other_nodes(&mut self) {
        let concerned: Vec<ObjectName> = self
            .services
            .values()
            .map(|state| &state.service)
            .filter(|service| {
                service.external_traffic_policy == TrafficPolicy::Local
                    && service.ports.iter().any(|port| port.node_port.is_some())
            })
            .map(|service| service.name.clone())
            .collect();
        concerned.into_iter().for_each(|service| self.touch(service, None));
    }

    fn cause(&self, triggered: Option<Timestamp>) -> Option<Cause> {
        self.arrived.map(|arrived| Cause { arrived, triggered })
    }

    fn note_change(&mut self, service: ObjectName, causes: Vec<Cause>) {
        let changed = self.changed.entry(service).or_default();
        changed.extend(causes);
        changed.truncate(MAX_CAUSES);
    }

    /// Takes in what a service claims; whoever wins or loses an address by it is changed as well.
    fn claim(&mut self, before: Option<Claims<'_>>, now: Option<Claims<'_>>) {
        if let Some(affected) = self.conflicts.update(before, now) {
            // A service that had no address takes none from anybody by itself.
            self.addresses_moved |= before.is_some() || !affected.is_empty();
            for service in affected {
                self.note_change(service, Vec::new());
            }
        }
    }

    /// Plans the services that are to be planned again, except those of which `later` holds.
    fn refresh(&mut self, later: &impl Fn(&ObjectName) -> bool) {
        if std::mem::take(&mut self.others_changed) {
            self.touch_those_at_other_nodes();
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
                Some(problem) => self.oversized.insert(name.clone(), problem),
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
            // The same frontends with another creation time: it may win or lose addresses.
            self.note_change(name, causes);
        }
    }
}

/// Wraps the new frontends, reusing the old allocation where nothing changed. Both are in the plan's
/// order, so one walk finds them all.
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

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validity;
