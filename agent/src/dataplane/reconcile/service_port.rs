//! What the maps hold of one service, for callers that have no plan of it yet.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use sockline_ebpf::id::ServiceId;

use super::Reconciler;
use crate::{
    dataplane::maps::service_names::ServiceKey,
    model::{
        object::{ObjectName, Protocol},
        plan,
    },
};

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPort {
    /// Empty for an unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// Its service addresses.
    pub addresses: BTreeSet<(IpAddr, u16)>,
    /// Sorted; of both families.
    pub backends: Vec<plan::Backend>,
}

impl Reconciler {
    /// The names of all service ports.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.service_ports.keys()
    }

    /// The ids of a service's ports, or of the one with this name or number.
    pub fn service_ids(&self, service: &ObjectName, port: Option<&str>) -> Vec<ServiceId> {
        let ports = self.service_ports.iter().filter(|(key, _)| key.service == *service);
        ports
            .filter(|(key, installed)| {
                port.is_none_or(|port| {
                    let mut numbers = installed.keys.iter().map(|key| u16::from_be(key.port));
                    *key.port_name == *port || numbers.any(|number| number.to_string() == port)
                })
            })
            .map(|(_, installed)| installed.id)
            .filter(|id| *id != ServiceId::NONE)
            .collect()
    }

    /// The ports of a service.
    pub fn installed(&self, service: &ObjectName) -> Vec<InstalledPort> {
        let ports = self.service_ports.iter().filter(|(key, _)| key.service == *service);
        ports
            .map(|(key, installed)| {
                let addresses = installed.keys.iter();
                let mut backends: Vec<plan::Backend> = installed
                    .backends
                    .iter()
                    .map(|(&(address, port), known)| plan::Backend {
                        address,
                        port,
                        weight: known.weight,
                        traffic_class: known.traffic_class,
                    })
                    .collect();
                backends.sort_unstable();
                InstalledPort {
                    name: Arc::clone(&key.port_name),
                    protocol: key.protocol,
                    addresses: addresses
                        .map(|key| (key.address.into(), u16::from_be(key.port)))
                        .collect(),
                    backends,
                }
            })
            .collect()
    }
}
