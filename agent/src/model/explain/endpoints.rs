//! The endpoints of a service as its ports see them, each with its reason, up to a limit for all ports together.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::model::{
    endpoints::{Candidate, Selection, SlicePorts, ThisNode, candidates},
    object::{Endpoint, EndpointSlice, Family, Service, ServicePort, TrafficPolicy},
    plan::{EndpointReason, TrafficClass},
};

/// How many endpoints an explanation lists, over all its ports and traffic policies. A Service may have a million
/// pairs of port and endpoint, and each takes some 300 bytes of the answer.
pub const LISTED: usize = 10_000;

/// What is chosen for a traffic policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    pub traffic_policy: TrafficPolicy,
    /// Endpoints of the service's slices, in the order of address and port.
    pub endpoints: Vec<EndpointExplanation>,
    /// How many more the slices have: those above [`LISTED`], or all if the service is too large.
    pub unlisted: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointExplanation {
    pub address: IpAddr,
    /// `None` if its slice does not have the port.
    pub port: Option<u16>,
    pub reason: EndpointReason,
    pub slice: Arc<str>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub traffic_class: TrafficClass,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hinted_zones: BTreeSet<Arc<str>>,
    pub hinted_nodes: BTreeSet<Arc<str>>,
}

pub(super) struct Endpoints<'a> {
    service: &'a Service,
    slices: &'a [&'a EndpointSlice],
    slice_ports: &'a SlicePorts<'a>,
    node: ThisNode<'a>,
    /// How many slices have of each family.
    by_family: [usize; 2],
    /// How many may still be listed.
    room: usize,
}

/// What is explained of an endpoint; the texts follow for those that are listed.
type Found<'a> = (&'a EndpointSlice, &'a Endpoint, Option<u16>, EndpointReason);

impl<'a> Endpoints<'a> {
    pub(super) fn new(
        service: &'a Service,
        slices: &'a [&'a EndpointSlice],
        slice_ports: &'a SlicePorts<'a>,
        node: ThisNode<'a>,
    ) -> Self {
        let mut by_family = [0; 2];
        for slice in slices {
            by_family[slice.family as usize] += slice.endpoints.len();
        }
        Self { service, slices, slice_ports, node, by_family, room: LISTED }
    }

    /// Lists as many as there is room for, and counts the others.
    pub(super) fn explained(
        &mut self,
        port: &ServicePort,
        family: Family,
        policy: TrafficPolicy,
    ) -> Choice {
        if self.room == 0 {
            return self.counted(port, family, policy);
        }
        let with_port = self.slice_ports.with(family, &port.name, port.protocol);
        let candidates = candidates(&with_port, self.node);
        let selection = Selection::new(policy, &candidates, self.node);
        // Of endpoints at one address and port, one is a candidate.
        let counting: HashSet<(*const Endpoint, u16)> = candidates
            .iter()
            .map(|candidate| (std::ptr::from_ref(candidate.endpoint), candidate.port))
            .collect();
        let reason = |endpoint, port| {
            if counting.contains(&(std::ptr::from_ref(endpoint), port)) {
                selection.reason(&Candidate { endpoint, port })
            } else {
                EndpointReason::Duplicate
            }
        };
        let mut all = self.all(port, family, &with_port, reason);
        all.sort_by(|a, b| order(a).cmp(&order(b)));
        let listed = all.len().min(self.room);
        self.room -= listed;
        Choice {
            traffic_policy: policy,
            unlisted: all.len() - listed,
            endpoints: all[..listed].iter().map(|found| explained(found, self.node)).collect(),
        }
    }

    /// Every endpoint of the slices, with what a function says of those that have the port.
    fn all(
        &self,
        port: &ServicePort,
        family: Family,
        with_port: &[(&'a EndpointSlice, u16)],
        reason: impl Fn(&'a Endpoint, u16) -> EndpointReason,
    ) -> Vec<Found<'a>> {
        let mut numbers: HashMap<*const EndpointSlice, Vec<u16>> = HashMap::new();
        // Those of a family that the service has are explained there.
        let others = Family::ALL.into_iter().filter(|other| !self.has(*other));
        let others =
            others.flat_map(|other| self.slice_ports.with(other, &port.name, port.protocol));
        for (slice, number) in with_port.iter().copied().chain(others) {
            numbers.entry(std::ptr::from_ref(slice)).or_default().push(number);
        }
        let mut all = Vec::new();
        for slice in self.slices.iter().copied() {
            let numbers = numbers.get(&std::ptr::from_ref(slice)).map_or(&[][..], Vec::as_slice);
            if slice.family == family {
                for endpoint in &slice.endpoints {
                    if numbers.is_empty() {
                        all.push((slice, endpoint, None, EndpointReason::NoSuchPort));
                    }
                    let of =
                        |number: &u16| (slice, endpoint, Some(*number), reason(endpoint, *number));
                    all.extend(numbers.iter().map(of));
                }
            } else if !self.has(slice.family) {
                let first = numbers.first().copied();
                let of = |endpoint| (slice, endpoint, first, EndpointReason::OtherFamily);
                all.extend(slice.endpoints.iter().map(of));
            }
        }
        all
    }

    /// Only how many there are.
    pub(super) fn counted(
        &self,
        port: &ServicePort,
        family: Family,
        policy: TrafficPolicy,
    ) -> Choice {
        let with_port = self.slice_ports.with(family, &port.name, port.protocol);
        let mut slices = HashSet::new();
        let mut count = self.by_family[family as usize];
        for (slice, _) in with_port {
            // With several numbers for the port each endpoint counts as often.
            if !slices.insert(std::ptr::from_ref(slice)) {
                count += slice.endpoints.len();
            }
        }
        let others = Family::ALL.into_iter().filter(|other| !self.has(*other));
        count += others.map(|other| self.by_family[other as usize]).sum::<usize>();
        Choice { traffic_policy: policy, endpoints: Vec::new(), unlisted: count }
    }

    fn has(&self, family: Family) -> bool {
        self.service.cluster_ips.iter().any(|ip| Family::of(*ip) == family)
    }
}

fn order<'a>((slice, endpoint, port, reason): &Found<'a>) -> impl Ord + use<'a> {
    (endpoint.address, *port, *reason, &*slice.name.name)
}

fn explained(
    (slice, endpoint, port, reason): &Found<'_>,
    node: ThisNode<'_>,
) -> EndpointExplanation {
    let hints = endpoint.hints.as_deref().cloned().unwrap_or_default();
    EndpointExplanation {
        address: endpoint.address,
        port: *port,
        reason: *reason,
        slice: Arc::clone(&slice.name.name),
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
        traffic_class: node.traffic_class(endpoint),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        hinted_zones: hints.zones,
        hinted_nodes: hints.nodes,
    }
}
