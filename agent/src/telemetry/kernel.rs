//! The kernel's counters as metrics, read at each scrape. Services that are gone have no series.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use super::definitions::{
    BypassLabels, BypassReason, Families, FaultLabels, RefusalLabels, RefusalReason, ServiceLabels,
};
use crate::{
    dataplane::{Counters, Counts},
    log_on_change::LogOnChange,
};

/// Reads the counters of the pinned maps.
pub struct KernelCounters {
    counters: Counters,
    /// A scrape comes every few seconds.
    services_log: Mutex<LogOnChange>,
    faults_log: Mutex<LogOnChange>,
}

impl KernelCounters {
    pub const fn new(counters: Counters) -> Self {
        Self {
            counters,
            services_log: Mutex::new(LogOnChange::new("cannot read the services' counters")),
            faults_log: Mutex::new(LogOnChange::new("cannot read the kernel programs' faults")),
        }
    }

    /// Writes the families one after the other, since there may be 100,000 services, and the metrics of a
    /// family take several times the memory of their text.
    pub fn write(&self, families: &Families, text: &mut String) -> prometheus::Result<()> {
        let services = self.by_service();
        let of = |value: fn(&Counts) -> u64| {
            services.iter().map(move |(labels, counts)| (labels.clone(), value(counts) as f64))
        };
        let refused = |reason, value| {
            of(value).map(move |(labels, count)| ((labels, RefusalLabels { reason }), count))
        };
        let bypassed = |reason, value| {
            of(value).map(move |(labels, count)| ((labels, BypassLabels { reason }), count))
        };
        families.connections_translated.write(of(|counts| counts.translated), text)?;
        families.connections_refused.write(
            refused(RefusalReason::NoEndpoints, |counts| counts.refused_no_endpoints).chain(
                refused(RefusalReason::NoLocalEndpoints, |counts| {
                    counts.refused_no_local_endpoints
                }),
            ),
            text,
        )?;
        families.connections_bypassed.write(
            bypassed(BypassReason::Planned, |counts| counts.bypassed)
                .chain(bypassed(BypassReason::AgentGone, |counts| counts.bypassed_stale)),
            text,
        )?;
        families.connections_failed_open.write(of(|counts| counts.failed_open), text)?;
        let faults = read(&self.faults_log, self.counters.faults());
        let faults = faults.into_iter().map(|(fault, count)| (FaultLabels { fault }, count as f64));
        families.kernel_faults.write(faults, text)
    }

    /// Sums over the ports of a service.
    fn by_service(&self) -> BTreeMap<ServiceLabels, Counts> {
        let mut all: BTreeMap<_, Counts> = BTreeMap::new();
        for (key, counts) in read(&self.services_log, self.counters.services()) {
            let labels = ServiceLabels {
                namespace: Arc::clone(&key.service.namespace),
                service: Arc::clone(&key.service.name),
                protocol: key.protocol,
            };
            let sum = all.entry(labels).or_default();
            sum.translated += counts.translated;
            sum.refused_no_endpoints += counts.refused_no_endpoints;
            sum.refused_no_local_endpoints += counts.refused_no_local_endpoints;
            sum.bypassed += counts.bypassed;
            sum.failed_open += counts.failed_open;
            sum.bypassed_stale += counts.bypassed_stale;
        }
        all
    }
}

/// What was read; nothing if that failed, which is logged when it is new.
fn read<T: Default, E: Error>(log: &Mutex<LogOnChange>, result: Result<T, E>) -> T {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.record(result.as_ref().map(|_| ()).map_err(|error| error as &dyn Error));
    result.unwrap_or_default()
}
