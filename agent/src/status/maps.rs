//! How full the maps are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataplane::{MapUsage, ScannedUsage, Usage};

/// The usage of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MapUse {
    /// The map, by its name in [limits](limits.md#maps).
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that have memory now. Maps grow up to their maximum.
    pub allocated_entries: u64,
    /// Maximum number of entries.
    pub max_entries: u64,
}

/// A map that the programs write and that is full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FullMap {
    /// The map, by its name in [limits](limits.md#maps).
    pub name: String,
    /// The cgroup whose share of the map is full; absent if all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The consequence.
    pub message: String,
}

/// A map that the programs write and that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnreadableMap {
    /// The map, by its name in [limits](limits.md#maps).
    pub name: String,
    /// The error.
    pub message: String,
}

/// The maps' fill levels, in the terms of metrics and status. Those that programs write are as of the
/// last scan, without those that it could not read.
pub fn maps(usage: &Usage, scanned: Option<&ScannedUsage>) -> Vec<MapUse> {
    let allocator = &usage.allocator;
    let fill = |entries: u64, capacity: u32, limit: u32| MapUsage {
        entries,
        capacity: capacity.into(),
        limit: limit.into(),
    };
    let frontends = usage.frontends as u64;
    let mut maps = vec![
        ("frontends", fill(frontends, usage.frontends_capacity, usage.frontends_limit)),
        ("slots", fill(allocator.slots.into(), allocator.slots_allocated, allocator.slots_limit)),
        (
            "backends",
            fill(allocator.backends.into(), allocator.backends_allocated, allocator.backends_limit),
        ),
        ("service-names", usage.names),
        ("removed-backends", usage.removed_counts),
        ("carried-counts", usage.carried_counts),
        ("excluded", usage.exclusion),
    ];
    if let Some(scanned) = scanned {
        let of_programs = [
            ("affinity", scanned.affinity.as_ref().map(|map| map.usage)),
            ("clients", scanned.clients.as_ref().map(|map| map.usage)),
            ("service-counters", scanned.counters.as_ref().map(|map| map.usage)),
            ("service-stats", scanned.stats),
            ("sockets", scanned.sockets),
            ("overflow", scanned.overflow.as_ref().map(|map| map.usage)),
        ];
        maps.extend(of_programs.into_iter().filter_map(|(name, usage)| Some((name, usage?))));
    }
    maps.into_iter()
        .map(|(name, MapUsage { entries, capacity, limit })| MapUse {
            name: name.into(),
            entries,
            allocated_entries: capacity,
            max_entries: limit,
        })
        .collect()
}
