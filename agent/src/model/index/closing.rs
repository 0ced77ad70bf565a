//! What decides about sockets that are connected to an endpoint which left the plan.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::Index;
use crate::model::object::{ObjectName, Protocol};

impl Index {
    /// The addresses and ports at which a service port is still served: by endpoints that are ready,
    /// wherever they are, and by those that still serve while they terminate. kube-proxy keeps what
    /// it knows of UDP flows to such endpoints, too (`pkg/proxy/conntrack/cleanup.go`). Nowhere if there
    /// is no such service; `None` if its objects cannot be used and so do not tell.
    #[must_use]
    pub fn serving(
        &self,
        service: &ObjectName,
        port_name: &str,
        protocol: Protocol,
    ) -> Option<HashSet<(IpAddr, u16)>> {
        if self.retained().contains(service) {
            return None;
        }
        if !self.services.contains_key(service) {
            return Some(HashSet::new());
        }
        let mut serving = HashSet::new();
        for slice in self.slices.of(service) {
            let ports = slice.ports.iter();
            for port in ports.filter(|port| *port.name == *port_name && port.protocol == protocol) {
                let endpoints = slice.endpoints.iter();
                serving.extend(
                    endpoints
                        .filter(|endpoint| endpoint.ready || endpoint.serving)
                        .map(|endpoint| (endpoint.address, port.port)),
                );
            }
        }
        Some(serving)
    }

    /// After which time TCP connections to former endpoints of a service are closed; `None` if never.
    #[must_use]
    pub fn close_on_removal(&self, service: &ObjectName) -> Option<Duration> {
        self.services.get(service)?.service.close_on_removal
    }

    /// What services said of that which were deleted since the last call.
    pub fn take_last_words(&mut self) -> Vec<(ObjectName, Duration)> {
        std::mem::take(&mut self.last_words)
    }
}
