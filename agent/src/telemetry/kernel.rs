//! The kernel's counters as metrics, read at each scrape. Services that are gone have no series.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    connections::{self, Hanging, UnknownEnds},
    definitions::{
        BypassLabels, BypassReason, Families, FaultLabels, LossLabels, LossReason, RefusalLabels,
        RefusalReason, ServicePortLabels,
    },
    failing_backends::FailingBackends,
};
use crate::{
    dataplane::{Counters, Counts, OpenConnection},
    log_on_change::LogOnChange,
};

/// Reads the counters of the pinned maps.
pub struct KernelCounters {
    counters: Counters,
    /// A scrape comes every few seconds.
    services_log: Mutex<LogOnChange>,
    faults_log: Mutex<LogOnChange>,
    unknown_ends: Mutex<UnknownEnds>,
    failing_backends: Mutex<FailingBackends>,
    /// As of the last walk over the open connections.
    hanging: Mutex<Hanging>,
    events_log: Mutex<LogOnChange>,
    dropped_events: AtomicU64,
}

impl KernelCounters {
    pub fn new(counters: Counters) -> Self {
        Self {
            counters,
            services_log: Mutex::new(LogOnChange::new("cannot read the services' counters")),
            faults_log: Mutex::new(LogOnChange::new("cannot read the kernel programs' faults")),
            unknown_ends: Mutex::default(),
            failing_backends: Mutex::default(),
            hanging: Mutex::default(),
            events_log: Mutex::new(LogOnChange::new("cannot read the counts of events")),
            dropped_events: AtomicU64::default(),
        }
    }

    /// Writes the families one after the other, since there may be 100,000 services, and the metrics of a
    /// family take several times the memory of their text.
    pub fn write(&self, families: &Families, text: &mut String) {
        let services = self.services();
        // What could not be read says nothing of what is gone.
        if let Some(services) = &services {
            let mut unknown = self.unknown_ends.lock().unwrap_or_else(PoisonError::into_inner);
            unknown.update(services);
            let mut failing = self.failing_backends.lock().unwrap_or_else(PoisonError::into_inner);
            failing.update(services, Instant::now());
        }
        let services = services.unwrap_or_default();
        let of = |value: fn(&Counts) -> u64| {
            services.iter().map(move |(labels, counts)| (labels.clone(), value(counts) as f64))
        };
        let refused = |reason, value| {
            of(value).map(move |(labels, count)| ((labels, RefusalLabels { reason }), count))
        };
        let bypassed = |reason, value| {
            of(value).map(move |(labels, count)| ((labels, BypassLabels { reason }), count))
        };
        families.connections_translated.write(of(|counts| counts.connections.opened), text);
        let unknown = self.unknown_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = self.failing_backends.lock().unwrap_or_else(PoisonError::into_inner);
        let hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connections::write(families, &services, &unknown, &hanging, text);
        let used = services.iter().filter(|(_, counts)| counts.connections.opened > 0);
        let failing = used.map(|(labels, _)| (labels.clone(), failing.of(labels) as f64));
        families.backends_failing.write(failing, text);
        families.connections_refused.write(
            refused(RefusalReason::NoEndpoints, |counts| counts.refused_no_endpoints).chain(
                refused(RefusalReason::NoLocalEndpoints, |counts| {
                    counts.refused_no_local_endpoints
                }),
            ),
            text,
        );
        families.connections_bypassed.write(
            bypassed(BypassReason::Planned, |counts| counts.bypassed)
                .chain(bypassed(BypassReason::AgentGone, |counts| counts.bypassed_stale)),
            text,
        );
        families.connections_failed_open.write(of(|counts| counts.failed_open), text);
        let faults = read(&self.faults_log, self.counters.faults());
        let faults = faults.into_iter().map(|(fault, count)| (FaultLabels { fault }, count as f64));
        families.kernel_faults.write(faults, text);
        let events = read(&self.events_log, self.counters.events().map(Some));
        families.events_written.write(events.map(|events| ((), events.written as f64)), text);
        let dropped = self.dropped_events.load(Ordering::Relaxed);
        let lost = [
            (LossReason::RingFull, events.map(|events| events.lost)),
            (LossReason::Sampled, events.map(|events| events.sampled)),
            (LossReason::SlowReader, Some(dropped)),
        ];
        let lost = lost
            .into_iter()
            .filter_map(|(reason, count)| Some((LossLabels { reason }, count? as f64)));
        families.events_lost.write(lost, text);
    }

    /// Records which connections hang while they are opened; `None` if that is not known.
    pub fn connections_hanging(&self, connections: Option<&[OpenConnection]>) {
        let by_port = connections.map(|connections| {
            let mut by_port = HashMap::new();
            for connection in connections {
                *by_port.entry(connection.service()).or_default() += 1;
            }
            by_port
        });
        *self.hanging.lock().unwrap_or_else(PoisonError::into_inner) = by_port;
    }

    /// Counts events that a client did not read in time.
    pub fn events_dropped(&self, count: u64) {
        self.dropped_events.fetch_add(count, Ordering::Relaxed);
    }

    /// `None` if they cannot be read.
    fn services(&self) -> Option<Vec<(ServicePortLabels, Counts)>> {
        let services = read(&self.services_log, self.counters.services().map(Some))?;
        let labels = services.into_iter().map(|(key, counts)| {
            let labels = ServicePortLabels {
                namespace: Arc::clone(&key.service.namespace),
                service: Arc::clone(&key.service.name),
                port: Arc::clone(&key.port_name),
                protocol: key.protocol,
            };
            (labels, counts)
        });
        Some(labels.collect())
    }
}

/// What was read; nothing if that failed, which is logged when it is new: a zero would be taken for a restart of the
/// counter.
fn read<T: Default, E: Error>(log: &Mutex<LogOnChange>, result: Result<T, E>) -> T {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.record(result.as_ref().map(|_| ()).map_err(|error| error as &dyn Error));
    result.unwrap_or_default()
}
