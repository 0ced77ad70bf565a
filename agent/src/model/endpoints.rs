//! Which endpoints a service port may use on this node.
//!
//! The rules are kube-proxy 1.36's: the merge of a service's EndpointSlices in
//! `pkg/proxy/endpointslicecache.go`, the choice among them in `pkg/proxy/topology.go`
//! (`CategorizeEndpoints`, `topologyModeFromHints`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use foldhash::HashMap;

use super::{
    object::{Endpoint, EndpointPort, EndpointSlice, Family, Hints, Protocol, TrafficPolicy},
    plan::{Backend, EndpointReason, TrafficClass},
};

/// What the choice of endpoints depends on, apart from the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThisNode<'a> {
    pub name: &'a str,
    /// `None` when the Node is unknown or has no zone label: zone hints then never match.
    pub zone: Option<&'a str>,
}

impl ThisNode<'_> {
    /// How far traffic goes to an endpoint: by the node and the zone that its slice says it is on. Topology hints say
    /// where traffic had best come from, and nothing of this.
    #[must_use]
    pub fn traffic_class(&self, endpoint: &Endpoint) -> TrafficClass {
        if endpoint.node.as_deref() == Some(self.name) {
            return TrafficClass::SameNode;
        }
        match (self.zone, endpoint.zone.as_deref()) {
            (Some(here), Some(there)) if here == there => TrafficClass::SameZone,
            (Some(_), Some(_)) => TrafficClass::OtherZone,
            _ => TrafficClass::Unknown,
        }
    }
}

/// An endpoint together with the port number its slice gives it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub endpoint: &'a Endpoint,
    pub port: u16,
}

/// Of two endpoints at one address and port the one with the greater standing counts.
///
/// Fields in the order in which they decide. The first is kube-proxy's rule (`addEndpoints` in
/// `pkg/proxy/endpointslicecache.go`, 1.36): addresses are reused while the former pod is still
/// terminating. Where kube-proxy leaves the result to the order of a Go map, the others decide, down to
/// all that the plan depends on: so no order of slices or endpoints matters.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Standing<'a> {
    terminating: Reverse<bool>,
    ready: bool,
    serving: bool,
    local: bool,
    /// One copy's, never a union: that would be hints which no slice has.
    hints: Option<&'a Hints>,
    class: TrafficClass,
    /// For NodePorts at the addresses of other nodes.
    node: Option<&'a str>,
}

impl<'a> Candidate<'a> {
    fn standing(&self, node: ThisNode<'_>) -> Standing<'a> {
        Standing {
            terminating: Reverse(self.endpoint.terminating),
            ready: self.endpoint.ready,
            serving: self.endpoint.serving,
            local: Topology::ThisNode.admits(self.endpoint, node),
            hints: self.endpoint.hints.as_deref(),
            class: node.traffic_class(self.endpoint),
            node: self.endpoint.node.as_deref(),
        }
    }
}

#[cfg(test)]
std::thread_local! {
    static PORTS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The ports of a service's slices: a service may have thousands of ports, and its slices as many.
#[derive(Debug)]
pub struct SlicePorts<'a> {
    /// By name: the slices that have such a port, and what it is there.
    by_name: HashMap<&'a str, Vec<(&'a EndpointSlice, &'a EndpointPort)>>,
}

impl<'a> SlicePorts<'a> {
    /// `slices` are one service's, in any order.
    pub fn of(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::default();
        for slice in slices {
            #[cfg(test)]
            PORTS_READ.set(PORTS_READ.get() + slice.ports.len());
            for port in &slice.ports {
                by_name.entry(&*port.name).or_default().push((slice, port));
            }
        }
        Self { by_name }
    }

    /// How many ports of slices this thread has read.
    #[cfg(test)]
    pub fn ports_read() -> usize {
        PORTS_READ.get()
    }

    /// The slices in which a service port is, and its number there. Both its name and its protocol must
    /// match: a service may have the same port name for two protocols.
    #[must_use]
    pub fn with(
        &self,
        family: Family,
        port_name: &str,
        protocol: Protocol,
    ) -> Vec<(&'a EndpointSlice, u16)> {
        let named = self.by_name.get(port_name).into_iter().flatten();
        named
            .filter(|(slice, port)| slice.family == family && port.protocol == protocol)
            .map(|(slice, port)| (*slice, port.port))
            .collect()
    }
}

/// The endpoints of one service port in one family, each address and port once.
///
/// Slices overlap while an endpoint moves from one to the other, and pods share an address if they are on
/// the host's network or while a former owner of it terminates: see [`Standing`].
#[must_use]
pub fn candidates<'a>(
    slices: &[(&'a EndpointSlice, u16)],
    node: ThisNode<'_>,
) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::new();
    let mut positions: HashMap<(IpAddr, u16), usize> = HashMap::default();
    for &(slice, port) in slices {
        positions.reserve(slice.endpoints.len());
        found.reserve(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            let candidate = Candidate { endpoint, port };
            match positions.entry((endpoint.address, port)) {
                Entry::Vacant(entry) => {
                    entry.insert(found.len());
                    found.push(candidate);
                }
                Entry::Occupied(entry) => {
                    let known = &mut found[*entry.get()];
                    if candidate.standing(node) > known.standing(node) {
                        *known = candidate;
                    }
                }
            }
        }
    }
    found
}

/// How endpoints are chosen from a service port's candidates: the planner's choice, and the reasons for it.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    node: ThisNode<'a>,
    topology: Topology,
    /// Some endpoint is ready where the topology keeps traffic. Otherwise those are used that still serve while
    /// they terminate.
    some_ready: bool,
}

impl<'a> Selection<'a> {
    /// With policy Cluster, the ready endpoints, restricted by topology hints if those are complete. With policy
    /// Local, the ready ones on this node; hints do not apply. If none of them is ready, those that still serve while
    /// they terminate.
    ///
    /// With Cluster it is not empty whenever the service has a usable endpoint anywhere.
    #[must_use]
    pub fn new(policy: TrafficPolicy, candidates: &[Candidate<'_>], node: ThisNode<'a>) -> Self {
        let topology = match policy {
            TrafficPolicy::Cluster => Topology::from_hints(candidates, node),
            TrafficPolicy::Local => Topology::ThisNode,
        };
        let is_usable = |candidate: &Candidate<'_>| {
            candidate.endpoint.ready && topology.admits(candidate.endpoint, node)
        };
        Self { node, topology, some_ready: candidates.iter().any(is_usable) }
    }

    /// Why one of the candidates is chosen or not.
    #[must_use]
    pub fn reason(&self, candidate: &Candidate<'_>) -> EndpointReason {
        let endpoint = candidate.endpoint;
        let is_admitted = self.topology.admits(endpoint, self.node);
        if self.topology == Topology::ThisNode && !is_admitted {
            return EndpointReason::NotOnThisNode;
        }
        match (endpoint.ready, self.topology) {
            (true, _) if is_admitted => EndpointReason::Ready,
            (true, Topology::SameNode) => EndpointReason::HintedForOtherNodes,
            (true, _) => EndpointReason::HintedForOtherZones,
            (false, _) if !endpoint.terminating => EndpointReason::NotReady,
            (false, _) if !endpoint.serving => EndpointReason::Terminating,
            (false, _) if self.some_ready => EndpointReason::OthersAreReady,
            (false, _) => EndpointReason::ServingWhileTerminating,
        }
    }

    /// `here` is the node that connects.
    fn backends(&self, candidates: &[Candidate<'_>], here: ThisNode<'_>) -> Vec<Backend> {
        let mut chosen: Vec<Backend> = candidates
            .iter()
            .filter(|candidate| self.reason(candidate).is_chosen())
            .map(|candidate| Backend {
                address: candidate.endpoint.address,
                port: candidate.port,
                weight: 1,
                traffic_class: here.traffic_class(candidate.endpoint),
            })
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

/// The endpoints for a traffic policy, see [`Selection::new`].
#[must_use]
pub fn chosen(
    policy: TrafficPolicy,
    candidates: &[Candidate<'_>],
    node: ThisNode<'_>,
) -> Vec<Backend> {
    Selection::new(policy, candidates, node).backends(candidates, node)
}

/// [`chosen`] with policy Local, for every node that has any, as `here` reaches them.
#[must_use]
pub fn by_node(
    candidates: &[Candidate<'_>],
    here: ThisNode<'_>,
) -> Vec<(Arc<str>, Arc<[Backend]>)> {
    let mut of_node: BTreeMap<&Arc<str>, Vec<Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        if let Some(node) = &candidate.endpoint.node {
            of_node.entry(node).or_default().push(*candidate);
        }
    }
    of_node
        .into_iter()
        .map(|(name, candidates)| {
            let node = ThisNode { name, zone: None };
            let selection = Selection::new(TrafficPolicy::Local, &candidates, node);
            let backends = selection.backends(&candidates, here);
            (Arc::clone(name), backends.into())
        })
        .filter(|(_, backends): &(_, Arc<[Backend]>)| !backends.is_empty())
        .collect()
}

/// Where the traffic policy or the hints keep traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    /// Traffic policy Local.
    ThisNode,
    /// Hints name nodes.
    SameNode,
    /// Hints name zones.
    SameZone,
    Anywhere,
}

impl Topology {
    /// Hints count only when every ready endpoint has them (otherwise they are being rolled out or
    /// withdrawn) and one of them names this node or zone (otherwise it would have no endpoint).
    fn from_hints(candidates: &[Candidate<'_>], node: ThisNode<'_>) -> Self {
        let ready = || candidates.iter().map(|c| c.endpoint).filter(|endpoint| endpoint.ready);
        let applies = |topology: Self| {
            ready().all(|endpoint| topology.is_hinted(endpoint))
                && ready().any(|endpoint| topology.admits(endpoint, node))
        };
        [Self::SameNode, Self::SameZone]
            .into_iter()
            .find(|topology| applies(*topology))
            .unwrap_or(Self::Anywhere)
    }

    fn is_hinted(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode => endpoint.hints.as_ref().is_some_and(|hints| !hints.nodes.is_empty()),
            Self::SameZone => endpoint.hints.as_ref().is_some_and(|hints| !hints.zones.is_empty()),
            Self::ThisNode | Self::Anywhere => true,
        }
    }

    fn admits(self, endpoint: &Endpoint, node: ThisNode<'_>) -> bool {
        match self {
            Self::ThisNode => endpoint.node.as_deref() == Some(node.name),
            Self::SameNode => {
                endpoint.hints.as_ref().is_some_and(|hints| hints.nodes.contains(node.name))
            }
            Self::SameZone => node.zone.is_some_and(|zone| {
                endpoint.hints.as_ref().is_some_and(|hints| hints.zones.contains(zone))
            }),
            Self::Anywhere => true,
        }
    }
}

#[cfg(test)]
mod duplicates;
#[cfg(test)]
mod tests;
