//! What the termination of sockets needs: where services are still served, and their `close-on-removal`.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::Index;
use crate::model::object::{ObjectName, Protocol};

impl Index {
    /// The addresses and ports at which a service port is still served: by ready endpoints of all nodes, and by
    /// those that serve while they terminate. kube-proxy also keeps the conntrack entries of UDP flows to such
    /// endpoints (`pkg/proxy/conntrack/cleanup.go`). Empty if the service does not exist; `None` if an
    /// object of it cannot be used, so that the answer is unknown.
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

    /// After which time TCP connections to removed endpoints of a service are closed; `None`: never.
    #[must_use]
    pub fn close_on_removal(&self, service: &ObjectName) -> Option<Duration> {
        self.services.get(service)?.service.close_on_removal
    }

    /// [`Self::close_on_removal`] of the services that were deleted since the last call.
    pub fn take_deleted_annotations(&mut self) -> Vec<(ObjectName, Duration)> {
        std::mem::take(&mut self.deleted_annotations)
    }
}
