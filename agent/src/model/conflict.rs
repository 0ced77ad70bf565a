//! Decides which frontend keeps an address, port and protocol that several services, or several ports of one
//! service, claim: a ClusterIP before a NodePort before anything else, then the oldest service.
//!
//! The API server allocates cluster IPs and node ports without collisions. External IPs and load balancer addresses
//! are whatever a tenant writes into a Service (CVE-2020-8554), so they never win over allocated addresses, whatever
//! their age. With kube-proxy the winner is random; here it is always the same one, so that a new service cannot
//! take over the address of another one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    object::{Family, InputError, Kind, ObjectName, Protocol, Service, Subject},
    plan::{Frontend, FrontendAddress, FrontendKind},
};

/// The address that a client connects to. Only one frontend can have it.
type Claim = (FrontendAddress, Family, u16, Protocol);

fn claim(frontend: &Frontend) -> Claim {
    (frontend.address, frontend.family, frontend.port, frontend.protocol)
}

/// Whether the time is unknown, and seconds since the epoch: an unknown time is newer than any other.
type Created = (bool, i64);

/// The rank of a claim, the highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Allocated by the API server: only one Service can have it.
    ClusterIp,
    /// The port is allocated by the API server, the address is the node's.
    NodePort,
    /// Any user who can write a Service can claim any address.
    Chosen,
}

impl Rank {
    #[must_use]
    pub const fn of(kind: FrontendKind) -> Self {
        match kind {
            FrontendKind::ClusterIP => Self::ClusterIp,
            FrontendKind::NodePort => Self::NodePort,
            FrontendKind::ExternalIP | FrontendKind::LoadBalancer => Self::Chosen,
        }
    }
}

/// A service port that claims an address, in the order of precedence: by rank, then by creation time, then by
/// namespace and name, then by port name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    rank: Rank,
    created: Created,
    service: ObjectName,
    port_name: Arc<str>,
    /// Not compared: no service claims an address twice under one port name.
    kind: FrontendKind,
}

/// What a service claims: its frontends, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    created: Created,
    frontends: &'a [Arc<Frontend>],
}

impl<'a> Claims<'a> {
    pub fn new(service: &Service, frontends: &'a [Arc<Frontend>]) -> Self {
        Self::since(service.created, frontends)
    }

    pub fn since(created: Option<i64>, frontends: &'a [Arc<Frontend>]) -> Self {
        Self { created: (created.is_none(), created.unwrap_or(0)), frontends }
    }

    fn all(self) -> impl Iterator<Item = (Claim, Claimant)> + 'a {
        self.frontends.iter().map(move |frontend| {
            let claimant = Claimant {
                rank: Rank::of(frontend.kind),
                created: self.created,
                service: frontend.service.clone(),
                port_name: Arc::clone(&frontend.port_name),
                kind: frontend.kind,
            };
            (claim(frontend), claimant)
        })
    }

    /// Changes of endpoints, which are the most frequent, do not change the claims.
    fn is_same(self, other: Self) -> bool {
        let keys = |claims: Self| {
            claims.frontends.iter().map(|f| (claim(f), &f.service, &f.port_name, f.kind))
        };
        self.created == other.created && keys(self).eq(keys(other))
    }
}

/// Every claim on an address.
///
/// It depends on the services alone, not on their endpoints.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// Addresses with one claim.
    sole: HashMap<Claim, Claimant>,
    /// Addresses with several claims; the first one wins.
    contested: HashMap<Claim, BTreeSet<Claimant>>,
}

impl Conflicts {
    /// Replaces the claims of a service. Returns the other services that win or lose an address; `None` if no
    /// address changed.
    pub fn update(
        &mut self,
        before: Option<Claims<'_>>,
        now: Option<Claims<'_>>,
    ) -> Option<BTreeSet<ObjectName>> {
        if let (Some(before), Some(now)) = (before, now)
            && before.is_same(now)
        {
            return None;
        }
        let mut affected = BTreeSet::new();
        for (claim, claimant) in before.into_iter().flat_map(Claims::all) {
            self.remove(claim, &claimant, &mut affected);
        }
        for (claim, claimant) in now.into_iter().flat_map(Claims::all) {
            self.add(claim, claimant, &mut affected);
        }
        Some(affected)
    }

    fn add(&mut self, claim: Claim, claimant: Claimant, affected: &mut BTreeSet<ObjectName>) {
        let contested = match self.contested.get_mut(&claim) {
            Some(contested) => contested,
            None => {
                let Some(other) = self.sole.remove(&claim) else {
                    self.sole.insert(claim, claimant);
                    return;
                };
                self.contested.entry(claim).or_insert_with(|| BTreeSet::from([other]))
            }
        };
        if let Some(winner) = contested.first()
            && claimant < *winner
        {
            affected.insert(winner.service.clone());
        }
        contested.insert(claimant);
    }

    fn remove(&mut self, claim: Claim, claimant: &Claimant, affected: &mut BTreeSet<ObjectName>) {
        let Some(contested) = self.contested.get_mut(&claim) else {
            self.sole.remove(&claim);
            return;
        };
        let had_it = contested.first() == Some(claimant);
        contested.remove(claimant);
        if had_it && let Some(heir) = contested.first() {
            affected.insert(heir.service.clone());
        }
        if contested.len() < 2 {
            let last = self.contested.remove(&claim).into_iter().flatten().next();
            self.sole.extend(last.map(|claimant| (claim, claimant)));
        }
    }

    /// The frontends of a service that have their address, in the order given.
    pub fn survivors<'a>(
        &'a self,
        frontends: &'a [Arc<Frontend>],
    ) -> impl Iterator<Item = &'a Arc<Frontend>> {
        frontends.iter().filter(|frontend| self.winner_over(frontend).is_none())
    }

    /// The service port that has the address of a frontend in place of the frontend's own, if there is one.
    pub fn winner_over(&self, frontend: &Frontend) -> Option<(&ObjectName, &Arc<str>)> {
        if self.contested.is_empty() {
            return None;
        }
        let winner = self.contested.get(&claim(frontend))?.first()?;
        (winner.service != frontend.service || winner.port_name != frontend.port_name)
            .then_some((&winner.service, &winner.port_name))
    }

    /// One error for each frontend that lost its address, sorted.
    pub fn errors(&self) -> Vec<InputError> {
        let mut input_errors = Vec::new();
        for (claim, contested) in &self.contested {
            let mut claimants = contested.iter();
            let Some(winner) = claimants.next() else { continue };
            input_errors.extend(claimants.map(|loser| input_error(claim, loser, winner)));
        }
        input_errors.sort();
        input_errors
    }
}

fn input_error(claim: &Claim, loser: &Claimant, winner: &Claimant) -> InputError {
    let (address, family, port, protocol) = claim;
    let address = match address {
        FrontendAddress::Node => format!("node port {port}/{protocol}"),
        FrontendAddress::OtherNodes => format!("node port {port}/{protocol} of other nodes"),
        FrontendAddress::Ip(ip) => format!("address {ip}, port {port}/{protocol}"),
    };
    InputError {
        object: Subject::of(Kind::Service, &loser.service),
        field: field(loser),
        message: format!(
            "{family} {address} belongs to {} of Service {} ({}); skipped here",
            port_label(&winner.port_name),
            winner.service,
            reason(loser, winner),
        ),
    }
}

/// The reason why the winner wins.
fn reason(loser: &Claimant, winner: &Claimant) -> &'static str {
    match winner.rank {
        Rank::ClusterIp if loser.rank != Rank::ClusterIp => "its cluster IP",
        Rank::NodePort if loser.rank != Rank::NodePort => "its node port",
        _ if loser.created != winner.created => "it is older",
        _ => "first by name",
    }
}

fn field(loser: &Claimant) -> String {
    let port = &loser.port_name;
    match loser.kind {
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
