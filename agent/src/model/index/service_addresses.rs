//! Which addresses services have for themselves.

use std::{collections::HashMap, net::IpAddr};

use crate::model::{node_addresses::ServiceUse, object::Service};

/// How many services have an address, by use.
#[derive(Debug, Default, Clone, Copy)]
struct Uses {
    cluster_ip: u32,
    load_balancer: u32,
}

/// Cluster IPs and load balancer addresses, with a number that changes when they do.
#[derive(Debug, Default)]
pub(super) struct ServiceAddresses {
    uses: HashMap<IpAddr, Uses>,
    version: u64,
}

impl ServiceAddresses {
    /// Replaces the previous version of a service.
    pub(super) fn update(&mut self, before: Option<&Service>, now: Option<&Service>) {
        let addresses = |service: Option<&Service>| {
            service.map(|s| (s.cluster_ips.clone(), s.load_balancer_ips.clone()))
        };
        if addresses(before) == addresses(now) {
            return;
        }
        self.version += 1;
        now.into_iter().for_each(|service| self.add(service));
        before.into_iter().for_each(|service| self.remove(service));
    }

    pub(super) fn used(&self, address: IpAddr) -> Option<ServiceUse> {
        self.uses.get(&address).map(|uses| match uses.cluster_ip {
            0 => ServiceUse::LoadBalancer,
            _ => ServiceUse::ClusterIP,
        })
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    fn add(&mut self, service: &Service) {
        for address in &service.cluster_ips {
            self.uses.entry(*address).or_default().cluster_ip += 1;
        }
        for address in &service.load_balancer_ips {
            self.uses.entry(*address).or_default().load_balancer += 1;
        }
    }

    fn remove(&mut self, service: &Service) {
        for address in &service.cluster_ips {
            self.change(*address, |uses| uses.cluster_ip = uses.cluster_ip.saturating_sub(1));
        }
        for address in &service.load_balancer_ips {
            self.change(*address, |uses| uses.load_balancer = uses.load_balancer.saturating_sub(1));
        }
    }

    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut Uses)) {
        if let Some(uses) = self.uses.get_mut(&address) {
            change(uses);
            if (uses.cluster_ip, uses.load_balancer) == (0, 0) {
                self.uses.remove(&address);
            }
        }
    }
}
