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
        let of_tests: usize = self.tests().map(|installed| installed.keys.len()).sum();
        self.frontends.entries().len().saturating_sub(of_tests + self.at_node.marks.len())
    }

    pub const fn frontends_capacity(&self) -> u32 {
        self.frontends.capacity()
    }

    pub const fn frontends_limit(&self) -> u32 {
        self.frontends.limit()
    }

    /// Service ports in the maps.
    pub fn services(&self) -> usize {
        self.installed
            .iter()
            .filter(|(key, installed)| !installed.keys.is_empty() && !is_probe(&key.service))
            .count()
    }

    pub fn allocator_usage(&self) -> AllocatorUsage {
        let mut usage = self.allocator.usage();
        for test in self.tests() {
            let slots: usize =
                test.slot_ranges.iter().map(|slot_range| slot_range.members.len()).sum();
            usage.backends = less(usage.backends, test.backends.len());
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
        let installed = self.installed.iter();
        installed
            .filter(|(key, known)| without.contains(&known.id) && !is_probe(&key.service))
            .map(|(key, _)| key.to_string())
            .collect()
    }

    /// The service ports of `sockline check`.
    fn tests(&self) -> impl Iterator<Item = &ServicePortState> {
        self.installed
            .iter()
            .filter(|(key, _)| is_probe(&key.service))
            .map(|(_, installed)| installed)
    }
}

fn less(count: u32, tests: usize) -> u32 {
    count.saturating_sub(u32::try_from(tests).unwrap_or(u32::MAX))
}
