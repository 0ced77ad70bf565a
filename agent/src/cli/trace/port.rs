//! A service port: the agent's explanation beside what the maps have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::document::{
    InMaps, Listed, OtherPort, Port, TracedChoice, TracedEndpoint, TracedFrontend,
};
use crate::model::{
    explain::{Choice, EndpointExplanation, FrontendExplanation, digest},
    object::{Family, Protocol, TrafficPolicy},
    plan::{Backend, EndpointReason, Frontend},
};

/// The name of a service port, its protocol and its family.
pub type PortKey = (Arc<str>, Protocol, Family);

pub fn key_of(frontend: &Frontend) -> PortKey {
    (Arc::clone(&frontend.port_name), frontend.protocol, frontend.family)
}

impl Port {
    pub fn explained(
        (port_name, protocol, family): PortKey,
        frontends: &[FrontendExplanation],
        choices: &[Choice],
        held: &[&Frontend],
    ) -> Self {
        let held_as = |planned: &FrontendExplanation| {
            held.iter().find(|held| {
                held.kind == planned.kind
                    && held.port == planned.port
                    && held.address.to_string() == planned.address
            })
        };
        let index_of = |policy: Option<TrafficPolicy>| {
            choices.iter().position(|choice| Some(choice.traffic_policy) == policy)
        };
        let in_maps = |planned: &FrontendExplanation| {
            let Some(held) = held_as(planned) else { return InMaps::Missing };
            let is_same = held.action == planned.action
                && held.reason == planned.reason
                && held.affinity_seconds == planned.affinity_seconds
                && held.backends.len() == planned.backends
                && digest(&held.backends) == planned.backends_digest;
            if is_same { InMaps::AsPlanned } else { InMaps::Differs }
        };
        let traced = frontends.iter().map(|planned| TracedFrontend {
            kind: planned.kind,
            address: planned.address.clone(),
            port: planned.port,
            action: planned.action,
            reason: planned.reason,
            affinity_timeout_seconds: planned.affinity_seconds,
            backends: planned.backends,
            choice: index_of(planned.traffic_policy),
            in_maps: planned.lost_to.is_none().then(|| in_maps(planned)),
            lost_to: planned
                .lost_to
                .clone()
                .map(|(service, port_name)| OtherPort { service, port_name }),
        });
        let traced: Vec<_> = traced.collect();
        let choices = choices.iter().map(|choice| {
            let backends = frontends
                .iter()
                .filter(|planned| planned.traffic_policy == Some(choice.traffic_policy))
                .filter_map(held_as)
                .flat_map(|held| held.backends.iter().copied())
                .collect();
            TracedChoice::explained(choice, backends)
        });
        Self { port_name, protocol, family, choices: choices.collect(), frontends: traced }
    }

    /// What the maps have, without reasons.
    pub fn of_maps((port_name, protocol, family): PortKey, held: &[&Frontend]) -> Self {
        let mut lists: Vec<&[Backend]> = Vec::new();
        let mut frontends = Vec::new();
        for frontend in held {
            let list = &*frontend.backends;
            let choice = (frontend.of_node == 0).then(|| {
                lists.iter().position(|known| *known == list).unwrap_or_else(|| {
                    lists.push(list);
                    lists.len() - 1
                })
            });
            frontends.push(TracedFrontend {
                kind: frontend.kind,
                address: frontend.address.to_string(),
                port: frontend.port,
                action: frontend.action,
                reason: frontend.reason,
                affinity_timeout_seconds: frontend.affinity_seconds,
                backends: list.len(),
                choice,
                in_maps: None,
                lost_to: None,
            });
        }
        let choices = lists.into_iter().map(|list| TracedChoice {
            traffic_policy: None,
            unlisted: 0,
            endpoints: list.iter().map(|backend| TracedEndpoint::of_maps(*backend)).collect(),
        });
        Self { port_name, protocol, family, choices: choices.collect(), frontends }
    }
}

impl TracedChoice {
    /// `backends` are those in the maps.
    fn explained(choice: &Choice, backends: BTreeSet<Backend>) -> Self {
        let mut only_in_maps: BTreeMap<(IpAddr, u16), Backend> = backends
            .into_iter()
            .map(|backend| ((backend.address, backend.port), backend))
            .collect();
        let held: BTreeSet<(IpAddr, u16)> = only_in_maps.keys().copied().collect();
        let mut endpoints: Vec<TracedEndpoint> = Vec::new();
        for endpoint in &choice.endpoints {
            let place = endpoint.port.map(|port| (endpoint.address, port));
            place.map(|place| only_in_maps.remove(&place));
            endpoints.push(TracedEndpoint {
                // The entry in the maps is that of the endpoint which counts.
                in_maps: place.is_some_and(|place| held.contains(&place))
                    && endpoint.reason != EndpointReason::Duplicate,
                ..TracedEndpoint::explained(endpoint)
            });
        }
        // Those that are not listed may be among the rest.
        if choice.unlisted == 0 {
            let rest = only_in_maps.into_values();
            endpoints.extend(rest.map(|backend| TracedEndpoint {
                chosen: Some(false),
                ..TracedEndpoint::of_maps(backend)
            }));
        }
        Self { traffic_policy: Some(choice.traffic_policy), endpoints, unlisted: choice.unlisted }
    }
}

impl TracedEndpoint {
    /// Not in the maps.
    fn explained(endpoint: &EndpointExplanation) -> Self {
        Self {
            address: endpoint.address,
            port: endpoint.port,
            chosen: Some(endpoint.reason.is_chosen()),
            reason: Some(endpoint.reason),
            in_maps: false,
            listed: Some(Listed {
                endpoint_slice: Arc::clone(&endpoint.slice),
                node_name: endpoint.node.clone(),
                zone: endpoint.zone.clone(),
                traffic_class: endpoint.traffic_class,
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
                hinted_zones: endpoint.hinted_zones.clone(),
                hinted_nodes: endpoint.hinted_nodes.clone(),
            }),
        }
    }

    /// That only the maps have.
    const fn of_maps(backend: Backend) -> Self {
        Self {
            address: backend.address,
            port: Some(backend.port),
            chosen: None,
            reason: None,
            in_maps: true,
            listed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        object::ObjectName,
        plan::{Action, Balance, FrontendAddress, FrontendKind, TrafficClass},
    };

    fn backend(last: u8) -> Backend {
        Backend {
            address: IpAddr::from([10, 244, 1, last]),
            port: 8080,
            weight: 1,
            traffic_class: TrafficClass::SameZone,
        }
    }

    /// A NodePort at the address of another node, with the endpoints of that node.
    fn held(backends: &[Backend]) -> Frontend {
        Frontend {
            service: ObjectName::new("shop", "cart"),
            port_name: "web".into(),
            address: FrontendAddress::Ip(IpAddr::from([192, 0, 2, 2])),
            family: Family::IPv4,
            port: 30080,
            protocol: Protocol::Tcp,
            kind: FrontendKind::NodePort,
            action: Action::Forward,
            reason: None,
            affinity_seconds: None,
            balance: Balance::Random,
            of_node: 2,
            backends: backends.into(),
        }
    }

    fn planned(backends: &[Backend]) -> FrontendExplanation {
        FrontendExplanation {
            kind: FrontendKind::NodePort,
            address: "192.0.2.2".to_owned(),
            port: 30080,
            traffic_policy: None,
            action: Action::Forward,
            reason: None,
            affinity_seconds: None,
            backends: backends.len(),
            backends_digest: digest(backends),
            lost_to: None,
        }
    }

    #[test]
    fn at_another_node_the_same_number_of_other_backends_is_not_as_planned() {
        let in_maps = |held: &Frontend| {
            let port =
                Port::explained(key_of(held), &[planned(&[backend(1), backend(2)])], &[], &[held]);
            port.frontends[0].in_maps
        };
        assert_eq!(in_maps(&held(&[backend(1), backend(2)])), Some(InMaps::AsPlanned));
        assert_eq!(in_maps(&held(&[backend(1), backend(3)])), Some(InMaps::Differs));
        assert_eq!(in_maps(&held(&[backend(1)])), Some(InMaps::Differs));
    }

    #[test]
    fn an_endpoint_that_is_not_listed_is_not_called_one_that_only_the_maps_have() {
        let listed = |unlisted| {
            let choice =
                Choice { traffic_policy: TrafficPolicy::Cluster, endpoints: Vec::new(), unlisted };
            TracedChoice::explained(&choice, BTreeSet::from([backend(1)])).endpoints.len()
        };
        assert_eq!((listed(0), listed(1)), (1, 0));
    }
}
