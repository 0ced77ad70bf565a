//! Who keeps an address, port and protocol that several services (or several ports of one service)
//! claim: the oldest.
//!
//! The API server allocates cluster IPs and node ports so that this cannot happen; external IPs,
//! load-balancer addresses and hand-written manifests can collide. kube-proxy leaves the winner to
//! chance; here it is always the same one, so that a newcomer cannot take over another service's
//! address.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    object::{Family, ObjectName, Problem, Protocol, Service},
    plan::{Frontend, FrontendAddress, FrontendKind},
};

/// What a client dials; only one frontend can answer it.
type Claim = (FrontendAddress, Family, u16, Protocol);

fn claim(frontend: &Frontend) -> Claim {
    (frontend.address, frontend.family, frontend.port, frontend.protocol)
}

/// The frontends that lost their address to another one.
///
/// It depends on the services alone, not on their endpoints.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// By service: what it lost.
    losers: BTreeMap<ObjectName, HashSet<(Arc<str>, Claim)>>,
    /// One for each frontend that is left out, sorted.
    pub problems: Vec<Problem>,
}

impl Conflicts {
    /// Finds them among all services, each with its own frontends.
    ///
    /// The first by creation time wins (an unknown time is newer than any), then by namespace and
    /// name, then by port name.
    pub fn among<'a>(
        services: impl IntoIterator<Item = (&'a Service, &'a [Arc<Frontend>])>,
    ) -> Self {
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_by_key(|(service, _)| {
            (service.created.is_none(), service.created, &service.name)
        });
        let mut taken: HashMap<Claim, &Frontend> = HashMap::new();
        let mut conflicts = Self::default();
        for frontend in services.iter().flat_map(|(_, frontends)| frontends.iter()) {
            let claim = claim(frontend);
            match taken.get(&claim) {
                Some(winner) => conflicts.add(frontend, claim, winner),
                None => {
                    taken.insert(claim, frontend);
                }
            }
        }
        conflicts.problems.sort();
        conflicts
    }

    fn add(&mut self, loser: &Frontend, claim: Claim, winner: &Frontend) {
        self.losers
            .entry(loser.service.clone())
            .or_default()
            .insert((Arc::clone(&loser.port_name), claim));
        self.problems.push(problem(loser, winner));
    }

    /// The services that lose other frontends than before.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a ObjectName> {
        let all: BTreeSet<_> = self.losers.keys().chain(before.losers.keys()).collect();
        all.into_iter().filter(|service| self.losers.get(service) != before.losers.get(service))
    }

    /// The frontends of `service` that keep their address, in the order given.
    pub fn survivors<'a>(
        &'a self,
        service: &ObjectName,
        frontends: &'a [Arc<Frontend>],
    ) -> impl Iterator<Item = &'a Arc<Frontend>> {
        let losers = self.losers.get(service);
        frontends.iter().filter(move |frontend| {
            losers.is_none_or(|losers| {
                !losers.contains(&(Arc::clone(&frontend.port_name), claim(frontend)))
            })
        })
    }
}

fn problem(loser: &Frontend, winner: &Frontend) -> Problem {
    let address = match loser.address {
        FrontendAddress::Node => format!("node port {}/{}", loser.port, loser.protocol),
        FrontendAddress::Ip(ip) => {
            format!("address {ip}, port {}/{}", loser.port, loser.protocol)
        }
    };
    Problem {
        object: format!("Service {}", loser.service),
        field: field(loser),
        message: format!(
            "{} {address} belongs to {} of Service {} already; left out here",
            loser.family,
            port_label(&winner.port_name),
            winner.service
        ),
    }
}

fn field(frontend: &Frontend) -> String {
    let port = &frontend.port_name;
    match frontend.kind {
        FrontendKind::ClusterIP => format!("spec.clusterIPs (port \"{port}\")"),
        FrontendKind::ExternalIP => format!("spec.externalIPs (port \"{port}\")"),
        FrontendKind::LoadBalancer => format!("status.loadBalancer.ingress (port \"{port}\")"),
        FrontendKind::NodePort => format!("spec.ports[name=\"{port}\"].nodePort"),
    }
}

fn port_label(name: &str) -> String {
    if name.is_empty() { "the unnamed port".to_owned() } else { format!("port \"{name}\"") }
}

#[cfg(test)]
mod tests;
