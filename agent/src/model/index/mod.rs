//! Holds the objects as last reported, and plans only the services that a change concerns.
//!
//! The control loop applies events ([`Index::apply`], in `events`) and takes the changes of the plan
//! ([`Index::changes`], in `planning`). `removal` has what the termination of sockets needs, `explain` what
//! `sockline trace` shows. Parts of the index: `slices` (of each Service), `service_addresses` (which Service has one),
//! `pods` (which are excluded), `validity` and `unreadable` (objects that cannot be used, and what depends on them).
//!
//! References: an EndpointSlice names its Service (same namespace); a Service refers to nothing; every Service
//! depends on the zone of this node's Node. A slice may arrive before its Service and is kept until then. A Pod
//! depends on its Namespace; both only determine which pods are excluded, and how clients are named.
//!
//! Invariant: the plan depends only on the objects, not on the order of the events.

mod events;
mod explain;
mod planning;
mod pods;
mod removal;
mod service_addresses;
mod slices;
mod unreadable;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::planning::Changes;
use self::{
    pods::Pods, service_addresses::ServiceAddresses, slices::Slices, unreadable::Unreadable,
};
use super::{
    conflict::Conflicts,
    event::Completeness,
    exclusion::{ExcludedPod, Policy},
    node_addresses::{NodePortScope, ServiceUse},
    object::{InputError, Kind, Node, ObjectName, ObjectRef, Pod, Service},
    other_nodes::OtherNodes,
    plan::{Cause, Frontend},
    planner::missing_node,
};

/// The objects as last reported, and the plan they make for one node.
#[derive(Debug)]
pub struct Index {
    node_name: Arc<str>,
    node: Option<Node>,
    /// `None` if NodePorts are only served at this node's addresses.
    others: Option<OtherNodes>,
    /// The addresses of other nodes have changed since services were planned.
    others_changed: bool,
    pods: Pods,
    services: BTreeMap<ObjectName, ServiceState>,
    service_addresses: ServiceAddresses,
    slices: Slices,
    /// The errors of the objects that have some.
    object_errors: HashMap<ObjectRef, Vec<InputError>>,
    unreadable: Unreadable,
    /// All objects of each kind, valid or not: a `Replace` removes those that it does not name.
    known: HashMap<Kind, HashSet<ObjectName>>,
    /// The errors of the source itself.
    source_errors: Vec<InputError>,
    /// The source can read all of its objects.
    completeness: Completeness,
    /// Kinds with a complete list.
    listed: BTreeSet<Kind>,
    /// Services to plan again, with the causes.
    dirty: BTreeMap<ObjectName, Vec<Cause>>,
    /// Services whose part of the plan changed since the last call of [`Index::changes`] or [`Index::plan`].
    changed: BTreeMap<ObjectName, Vec<Cause>>,
    /// Since then, a service lost an address, to another service or to none.
    addresses_moved: bool,
    conflicts: Conflicts,
    /// The errors of services that exceed a limit.
    oversized: BTreeMap<ObjectName, InputError>,
    /// When the event arrived that is being applied.
    arrived: Option<Instant>,
    /// See [`Index::take_deleted_annotations`].
    deleted_annotations: Vec<(ObjectName, Duration)>,
    /// See [`Index::take_deleted`].
    deleted: BTreeSet<ObjectName>,
    /// The uids that services had before they became unusable.
    unusable_uids: HashMap<ObjectName, Arc<str>>,
}

#[derive(Debug)]
struct ServiceState {
    service: Service,
    /// As last planned; an unchanged frontend keeps its allocation.
    frontends: Vec<Arc<Frontend>>,
    /// The creation time that their addresses were claimed with.
    claimed_since: Option<i64>,
    /// It was retained, so changes since then are not in the kernel.
    was_retained: bool,
}

/// The number of objects.
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
            object_errors: HashMap::new(),
            unreadable: Unreadable::default(),
            known: HashMap::new(),
            source_errors: Vec::new(),
            completeness: Completeness::Complete,
            listed: BTreeSet::new(),
            dirty: BTreeMap::new(),
            changed: BTreeMap::new(),
            addresses_moved: false,
            conflicts: Conflicts::default(),
            oversized: BTreeMap::new(),
            arrived: None,
            deleted_annotations: Vec::new(),
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

    /// All current errors, sorted and without duplicates. Conflicts of services that claim one address are
    /// among them once the services are planned.
    pub fn input_errors(&self) -> Vec<InputError> {
        let missing_node =
            (self.synced() && self.node.is_none()).then(|| missing_node(&self.node_name));
        let of_objects = self.object_errors.iter().flat_map(|(object, input_errors)| {
            let retained = self.unreadable.retained_by(object);
            let consequence = retained.map(|service| match object.kind {
                Kind::Service => "what is programmed for it stays".to_owned(),
                _ => format!("what is programmed for Service {service} stays"),
            });
            input_errors.iter().cloned().map(move |mut input_error| {
                if let Some(consequence) = &consequence {
                    input_error.set_consequence(consequence);
                }
                input_error
            })
        });
        let input_errors: BTreeSet<InputError> = of_objects
            .chain(self.source_errors.iter().chain(self.oversized.values()).cloned())
            .chain(self.conflicts.errors())
            .chain(missing_node)
            .collect();
        input_errors.into_iter().collect()
    }

    /// The pod with this UID in the name of its cgroup.
    #[must_use]
    pub fn pod_of(&self, uid: &str) -> Option<&Pod> {
        self.pods.of_uid(uid)
    }

    /// Whether a pod is on this node.
    #[must_use]
    pub fn is_on_this_node(&self, pod: &ObjectName) -> bool {
        self.pods.node_of(pod) == Some(&*self.node_name)
    }

    /// The excluded pods of this node, by the UID in the name of their cgroup; `None` if nothing that
    /// they depend on changed since the last call.
    pub fn excluded_pods(&mut self, policy: &Policy) -> Option<BTreeMap<Arc<str>, ExcludedPod>> {
        self.pods.excluded_pods(policy, &self.node_name)
    }

    /// Whether every kind has a complete list. Then what is not in the plan does not exist.
    #[must_use]
    pub fn synced(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Whether the source can read all of its objects. Then objects that it did not report do not exist.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self.completeness, Completeness::Complete)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            endpoint_slices: self.slices.iter().count(),
            endpoints: self.slices.iter().map(|slice| slice.endpoints.len()).sum(),
        }
    }

    /// Services with an object that cannot be used: what is programmed for them stays, whatever is planned.
    #[must_use]
    pub const fn retained(&self) -> &BTreeSet<ObjectName> {
        self.unreadable.services()
    }

    /// Services that were deleted since the last call, also if a new one has the same name: what is programmed
    /// for the deleted one does not stay, even if the new one is retained.
    pub fn take_deleted(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.deleted)
    }

    /// This node's own Node object.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// How services use an address, if it is a cluster IP or an address of a load balancer.
    #[must_use]
    pub fn service_use(&self, address: IpAddr) -> Option<ServiceUse> {
        self.service_addresses.used(address)
    }

    /// A number that changes when [`Self::service_use`] may.
    #[must_use]
    pub const fn service_use_version(&self) -> u64 {
        self.service_addresses.version()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validity;
