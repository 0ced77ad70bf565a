//! NodePorts at the node's addresses, and services that have one of these addresses themselves.
//!
//! The API server allocates a NodePort to one Service, but any user who can create Services can set any external IP.
//! So at the node's addresses the NodePort wins. Everything else at an address of the node belongs to its own Service,
//! and a change there concerns no other.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use sockline_ebpf::{
    address::Address,
    backend::Scopes,
    frontend::{self, FrontendKey},
    id::{ServiceId, SlotIndex},
};

use super::{Reconciler, encode};
use crate::{
    dataplane::error::DataplaneError,
    model::{
        object::ObjectName,
        plan::{Frontend, FrontendAddress, Plan, ServicePlan},
    },
};

/// A NodePort, as its key on loopback, whether it is served there or not. For a service's own address
/// at the node: the NodePort that it would be in the way of.
type NodePort = FrontendKey;

/// The frontends at the node's own addresses.
#[derive(Debug, Default)]
pub(super) struct AtNode {
    addresses: Vec<IpAddr>,
    node_ports: NodePorts,
    /// Ports that services have at their own addresses, those being the node's. One that is gone is
    /// only missed in the next sync of everything.
    services: HashSet<NodePort>,
    /// The other nodes' addresses, as keys that mark them.
    pub(super) marks: BTreeSet<FrontendKey>,
    /// Frontends of services that a NodePort took precedence over. Each is logged once.
    lost: HashSet<FrontendKey>,
}

/// NodePorts and their services, including services that did not fit into the maps.
#[derive(Debug, Default)]
struct NodePorts {
    owners: HashMap<NodePort, ObjectName>,
    /// The same, the other way round.
    of_services: HashMap<ObjectName, HashSet<NodePort>>,
}

impl NodePorts {
    fn contains(&self, port: &NodePort) -> bool {
        self.owners.contains_key(port)
    }

    fn of<'a>(&'a self, service: &ObjectName) -> impl Iterator<Item = &'a NodePort> {
        self.of_services.get(service).into_iter().flatten()
    }

    /// Gives a port to a service; a previous owner loses it.
    fn give(&mut self, port: NodePort, service: &ObjectName) {
        self.take(&port);
        self.owners.insert(port, service.clone());
        self.of_services.entry(service.clone()).or_default().insert(port);
    }

    fn take(&mut self, port: &NodePort) {
        let Some(owner) = self.owners.remove(port) else { return };
        if let Some(ports) = self.of_services.get_mut(&owner) {
            ports.remove(port);
            if ports.is_empty() {
                self.of_services.remove(&owner);
            }
        }
    }

    fn give_all<'a>(&mut self, frontends: impl IntoIterator<Item = &'a Frontend>) {
        for (port, service) in node_ports(frontends) {
            self.give(port, service);
        }
    }
}

/// How changes affect [`AtNode`].
struct Moves {
    /// NodePorts that are new, and that are gone.
    new: HashSet<NodePort>,
    gone: HashSet<NodePort>,
    services: HashSet<NodePort>,
}

impl AtNode {
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether a frontend's address belongs to the node, and its port to a NodePort.
    fn is_lost(&self, frontend: &Frontend) -> bool {
        self.port_of_service(frontend).is_some_and(|port| self.node_ports.contains(&port))
    }

    fn port_of_service(&self, frontend: &Frontend) -> Option<NodePort> {
        match frontend.address {
            FrontendAddress::Ip(ip) if self.addresses.contains(&ip) => Some(on_loopback(frontend)),
            FrontendAddress::Ip(_) | FrontendAddress::Node | FrontendAddress::OtherNodes => None,
        }
    }

    /// As [`Self::is_lost`]; logs it the first time.
    pub(super) fn loses(&mut self, frontend: &Frontend, key: FrontendKey) -> bool {
        let is_lost = self.is_lost(frontend);
        if is_lost && self.lost.insert(key) {
            tracing::warn!(
                service = %frontend.service,
                address = %frontend.address,
                port = frontend.port,
                "the address is this node's and the port a NodePort, which keeps it"
            );
        }
        is_lost
    }
}

fn on_loopback(frontend: &Frontend) -> NodePort {
    encode::key(frontend, encode::loopback(frontend.family))
}

fn frontends_of(changes: &[ServicePlan]) -> impl Iterator<Item = &Frontend> {
    changes.iter().flat_map(|change| &change.frontends).map(|frontend| &**frontend)
}

/// The NodePorts among frontends, with their services.
fn node_ports<'a>(
    frontends: impl IntoIterator<Item = &'a Frontend>,
) -> impl Iterator<Item = (NodePort, &'a ObjectName)> {
    let node_ports = frontends.into_iter().filter(|f| f.address == FrontendAddress::Node);
    node_ports.map(|frontend| (on_loopback(frontend), &frontend.service))
}

impl Reconciler {
    /// Whether changes of these services can be applied alone: not if a NodePort is added or
    /// removed whose port another service has at a node address, nor if other services may get what
    /// a retained service had.
    pub fn is_local(&self, changes: &[ServicePlan]) -> bool {
        if self.retained.ended {
            return false;
        }
        let moves = self.moves(changes);
        let is_in_the_way =
            |port| self.at_node.services.contains(port) || moves.services.contains(port);
        !moves.new.iter().chain(&moves.gone).any(is_in_the_way)
    }

    /// Records changes of services.
    pub(super) fn change_at_node(&mut self, changes: &[ServicePlan]) {
        let moves = self.moves(changes);
        moves.gone.iter().for_each(|port| self.at_node.node_ports.take(port));
        self.at_node.node_ports.give_all(frontends_of(changes));
        self.at_node.services.extend(moves.services);
    }

    fn moves(&self, changes: &[ServicePlan]) -> Moves {
        let now: HashSet<NodePort> =
            node_ports(frontends_of(changes)).map(|(port, _)| port).collect();
        let before: HashSet<NodePort> = changes
            .iter()
            .flat_map(|change| self.at_node.node_ports.of(&change.service))
            .copied()
            .collect();
        Moves {
            new: now.difference(&before).copied().collect(),
            gone: before.difference(&now).copied().collect(),
            services: frontends_of(changes)
                .filter_map(|frontend| self.at_node.port_of_service(frontend))
                .collect(),
        }
    }

    /// Records the node's addresses and the whole plan, and marks the services that are affected to
    /// be applied again.
    pub(super) fn set_node(&mut self, plan: &Plan, addresses: &[IpAddr]) {
        let mut now = AtNode { addresses: addresses.to_vec(), ..AtNode::default() };
        let frontends = || plan.frontends.iter().map(|frontend| &**frontend);
        now.node_ports.give_all(frontends());
        now.services = frontends().filter_map(|f| now.port_of_service(f)).collect();
        now.marks = std::mem::take(&mut self.at_node.marks);
        let before = std::mem::replace(&mut self.at_node, now);
        let lost: HashSet<FrontendKey> = frontends()
            .filter(|frontend| self.at_node.is_lost(frontend))
            .filter_map(|frontend| match frontend.address {
                FrontendAddress::Ip(ip) => Some(encode::key(frontend, ip.into())),
                FrontendAddress::Node | FrontendAddress::OtherNodes => None,
            })
            .collect();
        self.at_node.lost = before.lost.intersection(&lost).copied().collect();
        let moved = before.addresses != self.at_node.addresses;
        for installed in self.service_ports.values_mut() {
            let is_concerned = installed.source.iter().any(|frontend| {
                moved && frontend.address == FrontendAddress::Node
                    || before.is_lost(frontend) != self.at_node.is_lost(frontend)
            });
            if is_concerned {
                installed.source.clear();
            }
        }
    }

    /// Whether an address is marked as another node's.
    pub(in crate::dataplane) fn is_other_node(&self, address: Address) -> bool {
        self.at_node.marks.contains(&FrontendKey::node_mark(address))
    }

    /// Marks the other nodes' addresses, so that NodePorts are at them: all that are new, or none.
    pub fn set_other_nodes(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        let wanted: BTreeSet<FrontendKey> =
            addresses.iter().map(|ip| FrontendKey::node_mark((*ip).into())).collect();
        // First, to make room for the others. While the source is incomplete, a node may only seem
        // to be gone.
        if !self.unconfirmed.retains() {
            let gone: Vec<FrontendKey> = self.at_node.marks.difference(&wanted).copied().collect();
            for key in gone {
                self.frontends.remove(&key)?;
                self.frontends_freed = true;
                self.at_node.marks.remove(&key);
            }
        }
        let new: Vec<frontend::Frontend> =
            wanted.difference(&self.at_node.marks).map(|key| mark(*key)).collect();
        self.frontends.reserve(new.len())?;
        self.frontends.set_all(&new)?;
        self.at_node.marks.extend(new.iter().map(|mark| mark.key));
        Ok(())
    }
}

/// No program reads what is at such a key.
const fn mark(key: FrontendKey) -> frontend::Frontend {
    frontend::Frontend {
        key,
        service: ServiceId::NONE,
        slot_start: SlotIndex(0),
        slot_count: 0,
        affinity_seconds: 0,
        action: frontend::Action::Forward.byte(),
        reason: 0,
        kind: 0,
        balance: 0,
        scope: Scopes::empty(),
        padding: 0,
        node: 0,
    }
}
