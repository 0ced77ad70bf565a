//! Holds what a source last said and keeps the plan in step with it, re-planning only the services
//! that a change touches.
//!
//! Who refers to whom: an EndpointSlice names its Service (same namespace); a Service refers to
//! nothing; every Service depends on the zone of this node's Node. A slice may arrive before its
//! Service and is kept until then. A Pod depends on its Namespace; neither matters to the plan, only
//! to which pods are left alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    conflict::Conflicts,
    endpoints::ThisNode,
    event::{Event, Sourced},
    frontends::service_frontends,
    left_alone::{LeftAlone, Policy, left_alone},
    object::{
        EndpointSlice, Kind, Namespace, Node, Object, ObjectName, ObjectRef, Pod, Problem, Service,
    },
    plan::{Frontend, Plan, ServicePlan},
    planner::missing_node,
};

/// The objects as last reported, and the plan they make for one node.
#[derive(Debug)]
pub struct Index {
    node_name: Arc<str>,
    node: Option<Node>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<ObjectName, Pod>,
    /// Namespaces or pods changed since [`Self::left_alone`] was last called.
    pods_changed: bool,
    services: BTreeMap<ObjectName, ServiceState>,
    /// By service, then by slice name: kube-proxy's merge needs a fixed order, any will do.
    slices: HashMap<ObjectName, BTreeMap<Arc<str>, EndpointSlice>>,
    /// Which service a slice was filed under: the label can change.
    slice_owner: HashMap<ObjectName, ObjectName>,
    /// What is wrong with single objects; only objects with problems are in it.
    object_problems: HashMap<ObjectRef, Vec<Problem>>,
    /// Objects known of each kind, usable or not: a `Replace` removes what it does not name.
    known: HashMap<Kind, HashSet<ObjectName>>,
    /// What is wrong with the source itself.
    trouble: Vec<Problem>,
    /// The source can read all that it has.
    complete: bool,
    /// Kinds of which a complete list was seen.
    listed: BTreeSet<Kind>,
    /// Services to plan again before the next plan is given out.
    dirty: BTreeSet<ObjectName>,
    /// Services whose part of the plan is another one than what was given out last.
    changed: BTreeSet<ObjectName>,
    conflicts: Conflicts,
    /// Services changed since `conflicts` was made. Endpoints do not change who claims what.
    conflicts_stale: bool,
}

#[derive(Debug)]
struct ServiceState {
    service: Service,
    /// Nothing had to be left out of it.
    flawless: bool,
    /// As of the last planning; unchanged ones keep their allocation from plan to plan.
    frontends: Vec<Arc<Frontend>>,
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
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            pods_changed: true,
            services: BTreeMap::new(),
            slices: HashMap::new(),
            slice_owner: HashMap::new(),
            object_problems: HashMap::new(),
            known: HashMap::new(),
            trouble: Vec::new(),
            complete: true,
            listed: BTreeSet::new(),
            dirty: BTreeSet::new(),
            changed: BTreeSet::new(),
            conflicts: Conflicts::default(),
            conflicts_stale: false,
        }
    }

    /// Takes in a change. Planning waits until the next [`Self::plan`], so many changes in a row
    /// cost one.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Replace(kind, objects) => self.replace(kind, objects),
            Event::Apply(sourced) => self.put(sourced),
            Event::Delete(reference) => self.delete(&reference),
            Event::Trouble(problems) => self.trouble = problems,
            Event::Complete(complete) => self.complete = complete,
        }
    }

    /// The parts of the plan that changed since the last call of this or of [`Self::plan`].
    pub fn changes(&mut self) -> Vec<ServicePlan> {
        self.refresh();
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|service| {
                let frontends = self.services.get(&service).map_or_else(Vec::new, |state| {
                    self.conflicts.survivors(&service, &state.frontends).cloned().collect()
                });
                ServicePlan { service, frontends }
            })
            .collect()
    }

    /// The plan as of the last change. A frontend that is equal to the one in the previous plan is
    /// the same allocation ([`Arc::ptr_eq`]).
    pub fn plan(&mut self) -> Plan {
        self.refresh();
        self.changed.clear();
        let frontends = self
            .services
            .iter()
            .flat_map(|(name, state)| self.conflicts.survivors(name, &state.frontends).cloned())
            .collect();
        Plan { node: Arc::clone(&self.node_name), frontends }
    }

    /// Everything that is wrong at the moment, sorted, each once.
    pub fn problems(&mut self) -> Vec<Problem> {
        self.refresh();
        let missing_node =
            (self.synced() && self.node.is_none()).then(|| missing_node(&self.node_name));
        let problems: BTreeSet<Problem> = self
            .object_problems
            .values()
            .flatten()
            .chain(&self.conflicts.problems)
            .chain(&self.trouble)
            .cloned()
            .chain(missing_node)
            .collect();
        problems.into_iter().collect()
    }

    /// The pods of this node that are left alone, by the uid that their cgroup is named by; `None`
    /// when nothing that it depends on changed since the last call.
    pub fn left_alone(&mut self, policy: &Policy) -> Option<BTreeMap<Arc<str>, LeftAlone>> {
        std::mem::take(&mut self.pods_changed)
            .then(|| left_alone(self.pods.values(), &self.namespaces, policy, &self.node_name))
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
        let slices = || self.slices.values().flat_map(BTreeMap::values);
        Counts {
            services: self.services.len(),
            endpoint_slices: slices().count(),
            endpoints: slices().map(|slice| slice.endpoints.len()).sum(),
        }
    }

    /// This node's own Node object.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
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
        let Sourced { reference, object, mut problems } = sourced;
        let flawless = problems.iter().all(Problem::is_about_metadata);
        let kept = match object {
            Some(Object::Service(service)) => self.put_service(service, flawless),
            Some(Object::EndpointSlice(slice)) => self.put_slice(slice),
            Some(Object::Node(node)) => self.put_node(node),
            Some(Object::Namespace(namespace)) => self.put_namespace(namespace),
            Some(Object::Pod(pod)) => self.put_pod(pod),
            None => self.holds(&reference),
        };
        if kept {
            for problem in &mut problems {
                keep_instead(&mut problem.message);
            }
        }
        self.known.entry(reference.kind).or_default().insert(reference.name.clone());
        if problems.is_empty() {
            self.object_problems.remove(&reference);
        } else {
            self.object_problems.insert(reference, problems);
        }
    }

    /// Returns whether the previous version stays. A Service that worked must not lose a port or
    /// an address to a typo; with nothing to fall back on, the valid part is better than nothing.
    fn put_service(&mut self, service: Service, flawless: bool) -> bool {
        if let Some(state) = self.services.get_mut(&service.name) {
            if state.flawless && !flawless {
                return true;
            }
            state.flawless = flawless;
            if state.service != service {
                self.dirty.insert(service.name.clone());
                self.conflicts_stale = true;
                state.service = service;
            }
        } else {
            let name = service.name.clone();
            self.dirty.insert(name.clone());
            self.conflicts_stale = true;
            self.services.insert(name, ServiceState { service, flawless, frontends: Vec::new() });
        }
        false
    }

    /// The valid part of a slice is always used: which endpoints live must never be stale.
    fn put_slice(&mut self, slice: EndpointSlice) -> bool {
        let owner = ObjectName {
            namespace: Arc::clone(&slice.name.namespace),
            name: Arc::clone(&slice.service),
        };
        if self.slice_owner.get(&slice.name).is_some_and(|previous| *previous != owner) {
            self.delete_slice(&slice.name);
        }
        let slices = self.slices.entry(owner.clone()).or_default();
        if slices.get(&slice.name.name) != Some(&slice) {
            self.slice_owner.insert(slice.name.clone(), owner.clone());
            slices.insert(Arc::clone(&slice.name.name), slice);
            self.touch(owner);
        }
        false
    }

    fn put_node(&mut self, node: Node) -> bool {
        if node.name == self.node_name {
            self.set_node(Some(node));
        }
        false
    }

    fn put_namespace(&mut self, namespace: Namespace) -> bool {
        self.pods_changed |= self.namespaces.get(&namespace.name) != Some(&namespace);
        self.namespaces.insert(Arc::clone(&namespace.name), namespace);
        false
    }

    fn put_pod(&mut self, pod: Pod) -> bool {
        self.pods_changed |= self.pods.get(&pod.name) != Some(&pod);
        self.pods.insert(pod.name.clone(), pod);
        false
    }

    fn set_node(&mut self, node: Option<Node>) {
        let zone = |node: &Option<Node>| node.as_ref().and_then(|node| node.zone.clone());
        if zone(&self.node) != zone(&node) {
            self.dirty.extend(self.services.keys().cloned());
        }
        self.node = node;
    }

    fn delete(&mut self, reference: &ObjectRef) {
        let name = &reference.name;
        match reference.kind {
            Kind::Service => {
                if self.services.remove(name).is_some() {
                    self.dirty.remove(name);
                    self.changed.insert(name.clone());
                    self.conflicts_stale = true;
                }
            }
            Kind::EndpointSlice => self.delete_slice(name),
            Kind::Node => {
                if name.name == self.node_name {
                    self.set_node(None);
                }
            }
            Kind::Namespace => {
                self.pods_changed |= self.namespaces.remove(&name.name).is_some();
            }
            Kind::Pod => self.pods_changed |= self.pods.remove(name).is_some(),
        }
        self.object_problems.remove(reference);
        if let Some(known) = self.known.get_mut(&reference.kind) {
            known.remove(name);
        }
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.slice_owner.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.touch(owner);
    }

    fn touch(&mut self, service: ObjectName) {
        if self.services.contains_key(&service) {
            self.dirty.insert(service);
        }
    }

    fn holds(&self, reference: &ObjectRef) -> bool {
        match reference.kind {
            Kind::Service => self.services.contains_key(&reference.name),
            Kind::EndpointSlice => self.slice_owner.contains_key(&reference.name),
            Kind::Node => self.node.as_ref().is_some_and(|node| node.name == reference.name.name),
            Kind::Namespace => self.namespaces.contains_key(&reference.name.name),
            Kind::Pod => self.pods.contains_key(&reference.name),
        }
    }

    fn refresh(&mut self) {
        let node = ThisNode {
            name: &self.node_name,
            zone: self.node.as_ref().and_then(|node| node.zone.as_deref()),
        };
        for name in std::mem::take(&mut self.dirty) {
            let Some(state) = self.services.get_mut(&name) else { continue };
            let slices = self.slices.get(&name).into_iter().flat_map(BTreeMap::values);
            let frontends = service_frontends(&state.service, slices, node);
            let frontends = share(frontends, &state.frontends);
            let is_same = frontends.len() == state.frontends.len()
                && frontends.iter().zip(&state.frontends).all(|(a, b)| Arc::ptr_eq(a, b));
            if !is_same {
                state.frontends = frontends;
                self.changed.insert(name);
            }
        }
        if self.conflicts_stale {
            let conflicts = Conflicts::among(
                self.services.values().map(|state| (&state.service, &state.frontends[..])),
            );
            self.changed.extend(conflicts.changed_since(&self.conflicts).cloned());
            self.conflicts = conflicts;
            self.conflicts_stale = false;
        }
    }
}

/// Tells that nothing is left out after all: the consequence is what follows the last semicolon
/// (see [`Problem::message`]).
fn keep_instead(message: &mut String) {
    if let Some(consequence) = message.rfind("; ") {
        message.truncate(consequence);
    }
    message.push_str("; keeping the last valid version");
}

/// Wraps the new frontends, reusing the old allocation where nothing changed. Both are sorted alike
/// and a service has few frontends, so the old one is usually at the same place.
fn share(new: Vec<Frontend>, old: &[Arc<Frontend>]) -> Vec<Arc<Frontend>> {
    new.into_iter()
        .enumerate()
        .map(|(position, frontend)| {
            old.get(position)
                .filter(|previous| ***previous == frontend)
                .or_else(|| old.iter().find(|previous| ***previous == frontend))
                .map_or_else(|| Arc::new(frontend), Arc::clone)
        })
        .collect()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
