//! How full the maps are, as the agent knows it. Probe services do not count.

use std::collections::HashSet;

use sockline_ebpf::{frontend::Action, id::ServiceId};

use super::{Reconciler, ServicePortState};
use crate::{
    bpf::kinds::growable_hash::MapUsage, dataplane::maps::allocator::AllocatorUsage,
    model::probe_service::is_probe,
};

impl Reconciler {
    /// Without those of probe services, as in everything that is counted.
    pub fn frontends(&self) -> usize {
        let of_probes: usize = self.probe_ports().map(|port| port.keys.len()).sum();
        self.frontends.entries().len().saturating_sub(of_probes + self.at_node.marks.len())
    }

    pub const fn frontends_capacity(&self) -> u32 {
        self.frontends.capacity()
    }

    pub const fn frontends_limit(&self) -> u32 {
        self.frontends.limit()
    }

    /// Service ports in the maps.
    pub fn services(&self) -> usize {
        self.service_ports
            .iter()
            .filter(|(key, port)| !port.keys.is_empty() && !is_probe(&key.service))
            .count()
    }

    pub fn allocator_usage(&self) -> AllocatorUsage {
        let mut usage = self.allocator.usage();
        for probe in self.probe_ports() {
            let slots: usize =
                probe.slot_ranges.iter().map(|slot_range| slot_range.members.len()).sum();
            usage.backends = less(usage.backends, probe.backends.len());
            usage.slots = less(usage.slots, slots);
        }
        usage
    }

    pub fn names_usage(&self) -> MapUsage {
        self.names.usage()
    }

    pub fn removed_counts_usage(&self) -> MapUsage {
        self.allocator.removed_counts_usage()
    }

    pub fn carried_counts_usage(&self) -> MapUsage {
        self.allocator.carried_counts_usage()
    }

    /// The names of service ports that have counters, and whose ids are not among these.
    pub fn without_counters(&self, counted: &HashSet<ServiceId>) -> Vec<String> {
        let without: HashSet<ServiceId> = self
            .frontends
            .entries()
            .values()
            .filter(|entry| {
                entry.action != Action::Forward.byte() && !counted.contains(&entry.service)
            })
            .map(|entry| entry.service)
            .collect();
        let service_ports = self.service_ports.iter();
        service_ports
            .filter(|(key, port)| without.contains(&port.id) && !is_probe(&key.service))
            .map(|(key, _)| key.to_string())
            .collect()
    }

    /// The service ports of `sockline check`.
    fn probe_ports(&self) -> impl Iterator<Item = &ServicePortState> {
        self.service_ports.iter().filter(|(key, _)| is_probe(&key.service)).map(|(_, port)| port)
    }
}

fn less(count: u32, probes: usize) -> u32 {
    count.saturating_sub(u32::try_from(probes).unwrap_or(u32::MAX))
}
