//! The status of the agent: the control loop writes it; the servers and the command line read it.
//!
//! [`Status`] is what `GET /status` of the admin socket returns. Its parts are in a file for each
//! subject: `exclusion`, `health`, `maps`, `objects`, `program_log`, `termination`. [`Shared`] is the one copy
//! that all see. A field that is added later has a default, so that the command reads the status of an older agent.

mod exclusion;
mod health;
mod maps;
mod objects;
mod program_log;
mod shared;
mod termination;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    exclusion::{ExcludedPod, ExclusionState, NestedNamespaces, PodRef},
    health::{BytesCounted, KernelFeatures, Reclaim, Source},
    maps::{FullMap, MapUse, UnreadableMap, maps},
    objects::{InvalidObject, Objects, OutOfSync, UnconfirmedServicePorts, UnsyncedObject},
    program_log::ProgramLog,
    shared::Shared,
    termination::{HelperState, HelperUnavailable, Termination},
};
use crate::{
    dataplane::{ClientCounting, Telemetry},
    duration,
    source::WatchState,
};

/// What a running agent says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's process ID, in its own PID namespace.
    pub pid: u32,
    /// The name of this node's Node object.
    pub node_name: String,
    /// Where Services and EndpointSlices come from.
    pub source: Source,
    /// The watch of each kind; empty if the source is a folder.
    pub watches: Vec<WatchState>,
    /// Why the source cannot be read; empty if it can.
    pub source_errors: Vec<String>,
    /// Why the node's addresses cannot be read, so that NodePorts stay at those known before; absent if they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_addresses_error: Option<String>,
    /// When the agent started.
    pub start_time: Timestamp,
    /// What the agent logs: a level, or levels by module.
    pub log_level: String,
    /// What the kernel programs log because an operator asked for it; absent while they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_log: Option<ProgramLog>,
    /// Whether the first full sync is in the kernel.
    pub ready: bool,
    /// What the agent waits for before it is ready; of no meaning once it is.
    pub waiting_for: String,
    /// When the last sync ended; null before the first.
    pub last_sync_time: Option<Timestamp>,
    /// How long the last sync took; null before the first.
    #[serde(with = "duration::as_text")]
    #[schemars(with = "Option<duration::Text>")]
    pub last_sync_duration: Option<Duration>,
    /// Syncs since the agent started.
    pub syncs: u64,
    /// The optional features of the kernel that the agent found and uses, see [kernels](kernels.md).
    pub kernel_features: KernelFeatures,
    /// Whether connections are counted in detail (`--telemetry`); absent from an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// Whether connections are counted by client (`--client-counts`); absent from an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_counts: Option<ClientCounting>,
    /// When bytes of connections are counted; absent from an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_counted: Option<BytesCounted>,
    /// How many objects there are.
    pub objects: Objects,
    /// The usage of the maps; of those that the programs write, as of the last scan, without those in `unreadableMaps`.
    pub maps: Vec<MapUse>,
    /// Maps that the programs write and that the last scan could not read; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable_maps: Vec<UnreadableMap>,
    /// Entries, maps, pins and links that the agent repaired since it started, by kind; without kinds that have none.
    pub drift_repairs: BTreeMap<String, u64>,
    /// Why pins and links, or maps, cannot be reconciled; empty if they can.
    pub reconcile_errors: Vec<String>,
    /// How many service ports differ from the objects because not all objects can be read, by what they are instead.
    pub unconfirmed_service_ports: UnconfirmedServicePorts,
    /// Fields of objects that cannot be used.
    pub invalid_objects: Vec<InvalidObject>,
    /// What is not in the kernel as planned.
    pub out_of_sync: Vec<OutOfSync>,
    /// Maps that the programs write and that are full.
    pub full_maps: Vec<FullMap>,
    /// Pods of this node whose connections are not translated.
    pub excluded_pods: Vec<ExcludedPod>,
    /// How sockets of removed backends are closed, and how many were.
    pub termination: Termination,
    /// Whether freed map entries can be reclaimed.
    pub reclaim: Reclaim,
    /// Pods with nested network namespaces that connect to services.
    pub nested_namespaces: Vec<NestedNamespaces>,
}

impl Status {
    /// What it waits for before it is ready, and why it still waits.
    #[must_use]
    pub fn waiting(&self) -> String {
        let why = match &self.source_errors[..] {
            [] => String::new(),
            [only] => format!(" ({only})"),
            [first, more @ ..] => format!(" ({first}, and {} more)", more.len()),
        };
        format!("waiting for {}{why}", self.waiting_for)
    }

    /// The age of the last event of a watch that is not connected, the oldest of them. `None` if all watches
    /// are connected, or the source is a folder.
    #[must_use]
    pub fn out_of_touch(&self) -> Option<Duration> {
        let lost = self.watches.iter().filter(|watch| !watch.connected);
        lost.filter_map(WatchState::age).max()
    }
}

fn first_sync() -> String {
    "the first full sync".into()
}
