//! What one reading of the maps found.

use std::{net::SocketAddr, time::Duration};

use sockline_ebpf::telemetry::ConnectionCounts;

use crate::{
    cli::output::units::RoundTrips,
    dataplane::{Counts, ServiceKey},
    model::plan::TrafficClass,
};

/// One reading of the counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When, since the first one.
    pub at: Duration,
    pub node: Node,
    /// Of each service port; `None` if only backends were read.
    pub services: Option<Vec<(ServiceKey, Totals)>>,
    /// Of one service port, if it was asked for.
    pub opened: Option<Opened>,
}

/// The backends and clients of a service port.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    pub key: ServiceKey,
    pub backends: Vec<BackendSample>,
    /// By the name of their workload.
    pub clients: Vec<(String, Totals)>,
}

/// One backend.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSample {
    pub address: SocketAddr,
    pub class: TrafficClass,
    pub totals: Totals,
}

/// What the counters depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub agent_runs: bool,
    pub detail: Detail,
}

/// What the programs count of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    All,
    /// `--telemetry=off`
    Off,
    /// The kernel does not let programs read sockets.
    NotOnThisKernel,
}

/// Counts of a service port or of a backend since the maps were created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub opened: u64,
    pub active: u64,
    /// Connections that were not established, and calls that the programs refused.
    pub failed: u64,
    pub sent: u64,
    pub received: u64,
    pub round_trips: RoundTrips,
}

impl From<&ConnectionCounts> for Totals {
    fn from(counts: &ConnectionCounts) -> Self {
        Self {
            opened: counts.opened,
            active: counts.active(),
            failed: counts.failed.iter().sum(),
            sent: counts.sent,
            received: counts.received,
            round_trips: RoundTrips::default(),
        }
    }
}

impl From<&Counts> for Totals {
    fn from(counts: &Counts) -> Self {
        let mut totals = Self::from(&counts.connections);
        totals.failed += counts.refused_no_endpoints + counts.refused_no_local_endpoints;
        if let Some(ends) = &counts.ends {
            totals.round_trips = ends.round_trips.buckets;
        }
        totals
    }
}
