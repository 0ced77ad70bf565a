//! The status of the agent: the control loop writes it; the servers and the command line read it.
//!
//! [`Status`] is what `GET /status` of the admin socket returns. Its parts are in a file for each subject. A
//! field that is added later has a default, so that the command reads the status of an older agent.

mod exclusion;
mod health;
mod maps;
mod objects;
mod shared;
mod termination;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    exclusion::{ExcludedPod, ExclusionState, NestedNamespaces, PodRef},
    health::{KernelFeatures, Reclaim, Source},
    maps::{FullMap, MapUse, maps},
    objects::{InvalidObject, Objects, OutOfSync, UnconfirmedServicePorts, UnsyncedObject},
    shared::Shared,
    termination::{HelperState, HelperUnavailable, Termination},
};
use crate::{duration, source::WatchState};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub node_name: String,
    pub source: Source,
    /// The state of each watch; empty if the source is a folder.
    pub watches: Vec<WatchState>,
    /// Why the source cannot be read.
    pub source_errors: Vec<String>,
    /// Why the node's addresses cannot be read: NodePorts stay at those known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_addresses_error: Option<String>,
    pub start_time: Timestamp,
    /// The filter of the log.
    pub log_level: String,
    /// The first full sync is in the kernel.
    pub ready: bool,
    /// What it waits for before it is ready.
    pub waiting_for: String,
    pub last_sync_time: Option<Timestamp>,
    #[serde(with = "duration::as_text")]
    pub last_sync_duration: Option<Duration>,
    pub syncs: u64,
    pub kernel_features: KernelFeatures,
    pub objects: Objects,
    pub maps: Vec<MapUse>,
    /// Entries, maps, pins and links that reconciling has repaired, by kind; without kinds that have none.
    pub drift_repairs: BTreeMap<String, u64>,
    /// Why pins and links, or maps, cannot be reconciled.
    pub reconcile_errors: Vec<String>,
    /// Service ports that differ from the objects, because not all objects can be read.
    pub unconfirmed_service_ports: UnconfirmedServicePorts,
    pub invalid_objects: Vec<InvalidObject>,
    /// What is not in the kernel as planned.
    pub out_of_sync: Vec<OutOfSync>,
    /// Maps that the programs write and that are full.
    pub full_maps: Vec<FullMap>,
    pub excluded_pods: Vec<ExcludedPod>,
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
