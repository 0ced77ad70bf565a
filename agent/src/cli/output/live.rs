//! What the kernel counted of connections, for people and in JSON.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::Serialize;
use sockline_ebpf::telemetry::{ConnectionCounts, End};

use super::{table, units};
use crate::{
    dataplane::{Counts, ServiceKey},
    model::plan::Frontend,
};

/// The connections of one backend.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionsOfBackend {
    /// Connections that it was chosen for since it was added.
    pub connections: u64,
    /// Of these, those that are open, or being opened.
    pub active: u64,
    /// Of these, those that ended, in whichever way.
    pub closed: u64,
    /// Of these, those whose close is not observed.
    pub untracked: u64,
    /// Of those that ended, those that were never established.
    pub failed: Failures,
    /// Of those that ended, those that were established and got no byte, though the client had sent some.
    pub unanswered: u64,
    /// Bytes that clients wrote, of connections that ended and of long ones that are open.
    pub sent_bytes: u64,
    /// Bytes that came, of connections that ended and of long ones that are open.
    pub received_bytes: u64,
    /// TCP segments that were sent again, of connections that ended and of long ones that are open.
    pub retransmitted_segments: u64,
}

/// Connections that were not established.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    /// The endpoint refused them.
    pub refused: u64,
    /// Nothing answered.
    pub timed_out: u64,
    /// There was no way to the endpoint.
    pub unreachable: u64,
    /// The client closed the socket before there was an answer.
    pub given_up: u64,
}

impl From<ConnectionCounts> for ConnectionsOfBackend {
    fn from(counts: ConnectionCounts) -> Self {
        let failed = |end: End| end.as_failure().map_or(0, |place| counts.failed[place]);
        Self {
            connections: counts.opened,
            active: counts.active(),
            closed: counts.closed,
            untracked: counts.untracked,
            failed: Failures {
                refused: failed(End::Refused),
                timed_out: failed(End::TimedOut),
                unreachable: failed(End::Unreachable),
                given_up: failed(End::GivenUp),
            },
            unanswered: counts.unanswered,
            sent_bytes: counts.sent,
            received_bytes: counts.received,
            retransmitted_segments: counts.retransmitted,
        }
    }
}

impl ConnectionsOfBackend {
    /// The columns of `-o wide`.
    pub const COLUMNS: &'static [&'static str] =
        &["ACTIVE", "FAILED", "UNANSWERED", "SENT", "RECEIVED", "RETRANSMITTED"];

    /// The cells of [`Self::COLUMNS`].
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        let Failures { refused, timed_out, unreachable, given_up } = self.failed;
        vec![
            self.active.to_string(),
            (refused + timed_out + unreachable + given_up).to_string(),
            self.unanswered.to_string(),
            units::bytes(self.sent_bytes),
            units::bytes(self.received_bytes),
            self.retransmitted_segments.to_string(),
        ]
    }
}

/// One row for each frontend, with what was counted for its service port.
#[must_use]
pub fn frontends(frontends: &[Arc<Frontend>], services: &BTreeMap<ServiceKey, Counts>) -> String {
    let live = [&["CONNECTIONS"], ConnectionsOfBackend::COLUMNS, &["RTT P50", "RTT P99"]].concat();
    let mut table = table::new(&[&table::FRONTEND_COLUMNS[..], &live].concat());
    for frontend in frontends {
        let key = ServiceKey {
            service: frontend.service.clone(),
            port_name: Arc::clone(&frontend.port_name),
            protocol: frontend.protocol,
        };
        let counts = services.get(&key).cloned().unwrap_or_default();
        let connections = ConnectionsOfBackend::from(counts.connections);
        let mut row = table::frontend_cells(frontend);
        row.push(connections.connections.to_string());
        row.extend(connections.cells());
        row.extend([0.5, 0.99].map(|share| {
            let buckets = counts.ends.as_ref().map(|ends| &ends.round_trips.buckets);
            buckets
                .and_then(|buckets| units::round_trip(buckets, share))
                .unwrap_or_else(|| "-".into())
        }));
        table.add_row(row);
    }
    table::render(&table)
}
