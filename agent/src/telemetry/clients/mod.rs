//! The families of client workloads, which options of the agent switch on.
//!
//! [`ClientMetrics`] reads the connections of clients and names them every few seconds: a client may be gone at the next
//! scrape, and a scrape must not wait for names. `series` sums them up by workload and service port, with a limit. `istio` writes them with
//! Istio's names.
//!
//! Invariants: counters begin at 0 with each agent, and none falls. Series of workloads that are gone disappear.

mod istio;
mod series;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use clap::ValueEnum;
use tokio::task::block_in_place;

use self::series::Series;
use super::definitions::Families;
use crate::{
    dataplane::{ClientConnections, Clients, DataplaneError},
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

/// Connections by client workload, for the metrics.
pub struct ClientMetrics {
    which: ClientFamilies,
    clients: Clients,
    names: SharedResolver,
    series: Mutex<Series>,
    /// An update is one after the other: an older reading after a newer one would look as if counts began again.
    turn: tokio::sync::Mutex<()>,
    log: Mutex<LogOnChange>,
}

impl ClientMetrics {
    /// Counts from now on.
    ///
    /// # Errors
    /// When the connections of clients cannot be read.
    pub fn new(
        which: ClientFamilies,
        clients: Clients,
        names: SharedResolver,
    ) -> Result<Self, DataplaneError> {
        let series = Mutex::new(Series::after(&clients.connections()?));
        let log = Mutex::new(LogOnChange::new("cannot read the connections of clients"));
        Ok(Self { which, clients, names, series, turn: tokio::sync::Mutex::default(), log })
    }

    /// Reads the connections. Needs a runtime with several threads.
    pub async fn update(&self) {
        let _turn = self.turn.lock().await;
        let read = block_in_place(|| self.read());
        let Some(read) = read else { return };
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

    fn read(&self) -> Option<Vec<ClientConnections>> {
        let result = self.clients.connections();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.record(result.as_ref().map(|_| ()).map_err(|error| error as &dyn std::error::Error));
        result.ok()
    }

    /// Writes the families as of the last update.
    pub fn write(&self, families: &Families, text: &mut String) -> prometheus::Result<()> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if self.which.source_workloads == SourceWorkloads::Shown {
            write(families, &series, text)?;
        }
        if self.which.dialect == Dialect::Istio {
            istio::write(families, &series, text)?;
        }
        Ok(())
    }
}

fn write(families: &Families, series: &Series, text: &mut String) -> prometheus::Result<()> {
    let of = |value: fn(&series::Sums) -> u64| {
        series.iter().map(move |(labels, sums)| (labels.clone(), value(sums) as f64))
    };
    families.client_connections_opened.write(of(|sums| sums.counted.opened), text)?;
    families.client_connections_active.write(of(|sums| sums.active), text)?;
    families.client_connections_closed.write(of(|sums| sums.counted.closed), text)?;
    families.client_connections_failed.write(of(|sums| sums.counted.failed), text)?;
    families.client_sent_bytes.write(of(|sums| sums.counted.sent), text)?;
    families.client_received_bytes.write(of(|sums| sums.counted.received), text)
}
