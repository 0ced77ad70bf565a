//! The families of client workloads, which options of the agent switch on.
//!
//! [`ClientReader`] reads the connections of clients and names them every few seconds: a client may be gone at the next
//! scrape, and a scrape must not wait for names. [`ClientMetrics`] writes what was read last. `series` sums it up by workload and service
//! port, with a limit. `istio` writes it with Istio's names.
//!
//! Invariants: counters begin at 0 with each agent, and none falls. Series of workloads that are gone disappear.

mod istio;
mod series;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use clap::ValueEnum;
use tokio::task::block_in_place;

use self::series::Series;
use super::definitions::Families;
use crate::{
    dataplane::{Clients, DataplaneError},
    log_on_change::LogOnChange,
    workloads::SharedResolver,
};

/// Whether there are series for each client workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceWorkloads {
    #[default]
    Omitted,
    Shown,
}

/// Whose names the metrics of connections have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Dialect {
    /// Sockline's own
    #[default]
    Sockline,
    /// Sockline's own, and `istio_tcp_…` with Istio's labels
    Istio,
}

/// Which families of client workloads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientFamilies {
    pub source_workloads: SourceWorkloads,
    pub dialect: Dialect,
}

impl ClientFamilies {
    #[must_use]
    pub fn are_any(self) -> bool {
        self != Self::default()
    }
}

/// Reads the connections of clients. An older reading after a newer one would look as if counts began again, so there
/// is one of these, and an update borrows all of it.
pub struct ClientReader {
    clients: Clients,
    names: SharedResolver,
    series: Arc<Mutex<Series>>,
    log: LogOnChange,
}

impl ClientReader {
    /// Counts from now on.
    ///
    /// # Errors
    /// When the connections of clients cannot be read.
    pub fn new(clients: Clients, names: SharedResolver) -> Result<Self, DataplaneError> {
        let series = Arc::new(Mutex::new(Series::after(&clients.connections()?)));
        let log = LogOnChange::new("cannot read the connections of clients");
        Ok(Self { clients, names, series, log })
    }

    /// The metrics of what this reads.
    #[must_use]
    pub fn metrics(&self, which: ClientFamilies) -> ClientMetrics {
        ClientMetrics { which, series: Arc::clone(&self.series) }
    }

    /// Reads the connections. Needs a runtime with several threads.
    pub async fn update(&mut self) {
        let read = block_in_place(|| self.clients.connections());
        self.log.record(read.as_ref().map(drop).map_err(|error| error as &dyn std::error::Error));
        let Ok(read) = read else { return };
        let mut names = self.names.lock().await;
        names.prepare(read.iter().map(|client| client.cgroup)).await;
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        block_in_place(|| {
            let workload_of = |cgroup| names.client(cgroup)?.workload.clone();
            let mut gone = HashMap::new();
            series.update(&read, workload_of, |cgroup| {
                *gone.entry(cgroup).or_insert_with(|| names.is_gone(cgroup))
            });
        });
    }
}

/// Connections by client workload, for the metrics, as a [`ClientReader`] read them last.
pub struct ClientMetrics {
    which: ClientFamilies,
    series: Arc<Mutex<Series>>,
}

impl ClientMetrics {
    /// Writes the families as of the last update.
    pub fn write(&self, families: &Families, text: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if self.which.source_workloads == SourceWorkloads::Shown {
            write(families, &series, text);
        }
        if self.which.dialect == Dialect::Istio {
            istio::write(families, &series, text);
        }
    }
}

fn write(families: &Families, series: &Series, text: &mut String) {
    let of = |value: fn(&series::Sums) -> u64| {
        series.iter().map(move |(labels, sums)| (labels.clone(), value(sums) as f64))
    };
    families.client_connections_opened.write(of(|sums| sums.counted.opened), text);
    families.client_connections_active.write(of(|sums| sums.active), text);
    families.client_connections_closed.write(of(|sums| sums.counted.closed), text);
    families.client_connections_failed.write(of(|sums| sums.counted.failed), text);
    families.client_sent_bytes.write(of(|sums| sums.counted.sent), text);
    families.client_received_bytes.write(of(|sums| sums.counted.received), text);
}
