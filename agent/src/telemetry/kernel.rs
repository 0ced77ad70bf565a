//! The kernel's counters as metrics, read at each scrape. Services that are gone have no series.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Mutex, PoisonError},
};

use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use sockline_ebpf::counters::Fault;

use super::definitions;
use crate::{
    dataplane::{Counters, Counts},
    log_on_change::LogOnChange,
    model::{object::ObjectName, object::Protocol},
};

/// Turns the counters of the pinned maps into metric families: one after the other, since they
/// take several times the memory of their text, and there may be 100,000 services.
pub struct KernelFamilies {
    counters: Counters,
    /// A scrape comes every few seconds.
    services_log: Mutex<LogOnChange>,
    faults_log: Mutex<LogOnChange>,
}

impl KernelFamilies {
    pub const fn new(counters: Counters) -> Self {
        Self {
            counters,
            services_log: Mutex::new(LogOnChange::new("cannot read the services' counters")),
            faults_log: Mutex::new(LogOnChange::new("cannot read the kernel programs' faults")),
        }
    }

    /// Gives out each family that has metrics.
    pub fn for_each(
        &self,
        mut each: impl FnMut(MetricFamily) -> prometheus::Result<()>,
    ) -> prometheus::Result<()> {
        let services = self.by_service();
        let of = |value: fn(&Counts) -> u64| {
            services
                .iter()
                .map(move |(service, counts)| counter(&labels(service, None), value(counts)))
        };
        let refused = services.iter().flat_map(|(service, counts)| {
            [
                ("no-endpoints", counts.refused_no_endpoints),
                ("no-local-endpoints", counts.refused_no_local_endpoints),
            ]
            .map(|(reason, count)| counter(&labels(service, Some(reason)), count))
        });
        let faults = read(&self.faults_log, self.counters.faults());
        let faults = faults
            .into_iter()
            .map(|(fault, count)| counter(&[("fault", fault_name(fault).into())], count));
        let mut give = |definition: &definitions::Metric, metrics: Vec<Metric>| {
            if metrics.is_empty() { Ok(()) } else { each(family(definition, metrics)) }
        };
        give(&definitions::CONNECTIONS_TRANSLATED, of(|counts| counts.translated).collect())?;
        give(&definitions::CONNECTIONS_REFUSED, refused.collect())?;
        give(&definitions::CONNECTIONS_PASSED, of(|counts| counts.bypassed).collect())?;
        give(&definitions::CONNECTIONS_FAILED_OPEN, of(|counts| counts.failed_open).collect())?;
        let stale = Some("agent-gone");
        let bypassed = services
            .iter()
            .map(|(service, counts)| counter(&labels(service, stale), counts.bypassed_stale));
        give(&definitions::CONNECTIONS_BYPASSED, bypassed.collect())?;
        give(&definitions::KERNEL_FAULTS, faults.collect())
    }

    /// Sums over the ports of a service.
    fn by_service(&self) -> BTreeMap<(ObjectName, Protocol), Counts> {
        let mut all: BTreeMap<_, Counts> = BTreeMap::new();
        for (key, counts) in read(&self.services_log, self.counters.services()) {
            let sum = all.entry((key.service, key.protocol)).or_default();
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

/// What was read; nothing, and a word in the log when that is new, if it could not be.
fn read<T: Default, E: Error>(log: &Mutex<LogOnChange>, result: Result<T, E>) -> T {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.record(result.as_ref().map(|_| ()).map_err(|error| error as &dyn Error));
    result.unwrap_or_default()
}

pub(super) const fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::StaleEntry => "stale-entry",
        Fault::OwnerMismatch => "owner-mismatch",
        Fault::NotRemembered => "not-remembered",
        Fault::AffinityFull => "affinity-full",
        Fault::CountersFull => "counters-full",
        Fault::SocketLimit => "socket-limit",
    }
}

fn labels<'a>(
    (service, protocol): &(ObjectName, Protocol),
    reason: Option<&'a str>,
) -> Vec<(&'a str, String)> {
    let mut labels = vec![
        ("namespace", service.namespace.to_string()),
        ("service", service.name.to_string()),
        ("protocol", protocol.to_string()),
    ];
    labels.extend(reason.map(|reason| ("reason", reason.to_owned())));
    labels
}

fn counter(labels: &[(&str, String)], value: u64) -> Metric {
    let mut counter = Counter::default();
    // The text format has doubles: exact up to 2^53.
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(
        labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.clone());
                pair
            })
            .collect(),
    );
    metric.set_counter(counter);
    metric
}

fn family(definition: &definitions::Metric, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(MetricType::COUNTER);
    family.set_metric(metrics);
    family
}
