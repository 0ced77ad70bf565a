//! The agent's own metrics, and all of them as text.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Registry, TextEncoder, core::Collector,
};

use super::{
    definitions::{self, Metric},
    kernel::KernelFamilies,
};
use crate::{
    dataplane::{Counters, Drift, Usage},
    model::{object::Kind, plan::Cause},
    source::{Event, SourceStats},
    status::{ExcludedPod, MapUse},
};

/// Seconds: from what a small change takes to what an operator would not wait for.
const LATENCY_BUCKETS: [f64; 18] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0, 60.0,
];

/// Services that are named in metrics at a time: more would be series without end.
const NAMED_SERVICES: usize = 100;
/// Protocols and reasons of sockets that are closed.
const CLOSED: [[&str; 2]; 2] = [["UDP", "backend-gone"], ["TCP", "close-on-removal"]];

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    kernel: KernelFamilies,
    services: IntGauge,
    frontends: IntGauge,
    backends: IntGauge,
    map_entries: IntGaugeVec,
    map_capacity: IntGaugeVec,
    map_limit: IntGaugeVec,
    sync_seconds: Histogram,
    programming_seconds: HistogramVec,
    last_sync: Gauge,
    sync_errors: IntCounter,
    not_in_kernel: IntGauge,
    unsynced_ports: IntGaugeVec,
    writes: IntCounterVec,
    problems: IntGauge,
    left_alone: IntGauge,
    not_left_alone: IntGauge,
    source_events: IntCounterVec,
    source_errors: IntCounterVec,
    source_age: GaugeVec,
    source_connected: IntGaugeVec,
    repairs: IntCounterVec,
    sockets_closed: IntCounterVec,
    sockets_not_closed: IntCounter,
    sockets_seconds: Histogram,
    helpers_lost: IntCounter,
    helper_running: IntGauge,
    stats: Arc<SourceStats>,
}

impl Metrics {
    /// # Errors
    /// When two metrics have one name: a mistake in this file.
    pub fn new(counters: Counters, stats: Arc<SourceStats>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let kernel = KernelFamilies::new(counters);
        let gauge = |metric: &Metric| -> prometheus::Result<IntGauge> {
            registered(&registry, IntGauge::with_opts(metric.opts())?)
        };
        let gauges = |metric: &Metric| -> prometheus::Result<IntGaugeVec> {
            registered(&registry, IntGaugeVec::new(metric.opts(), &metric.label_names())?)
        };
        let counter = |metric: &Metric| -> prometheus::Result<IntCounter> {
            registered(&registry, IntCounter::with_opts(metric.opts())?)
        };
        let counters = |metric: &Metric| -> prometheus::Result<IntCounterVec> {
            registered(&registry, IntCounterVec::new(metric.opts(), &metric.label_names())?)
        };
        let durations = |metric: &Metric| -> prometheus::Result<Histogram> {
            let buckets = prometheus::exponential_buckets(0.000_1, 4.0, 10)?;
            let options = HistogramOpts::from(metric.opts()).buckets(buckets);
            registered(&registry, Histogram::with_opts(options)?)
        };
        let sockets_closed = counters(&definitions::SOCKETS_CLOSED)?;
        for [protocol, reason] in CLOSED {
            sockets_closed.with_label_values(&[protocol, reason]);
        }
        let latency = definitions::PROGRAMMING_LATENCY;
        let programming_seconds = HistogramVec::new(
            HistogramOpts::from(latency.opts()).buckets(LATENCY_BUCKETS.to_vec()),
            &latency.label_names(),
        )?;
        let programming_seconds = registered(&registry, programming_seconds)?;
        for since in ["arrival", "trigger"] {
            programming_seconds.with_label_values(&[since]);
        }
        let last_sync = registered(&registry, Gauge::with_opts(definitions::LAST_SYNC.opts())?)?;
        let age = definitions::SOURCE_AGE;
        let source_age = GaugeVec::new(age.opts(), &age.label_names())?;
        let source_age = registered(&registry, source_age)?;
        let build = gauges(&definitions::BUILD_INFO)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let repairs = counters(&definitions::REPAIRS)?;
        for kind in Drift::KINDS {
            repairs.with_label_values(&[kind]);
        }
        Ok(Self {
            services: gauge(&definitions::SERVICES)?,
            frontends: gauge(&definitions::FRONTENDS)?,
            backends: gauge(&definitions::BACKENDS)?,
            map_entries: gauges(&definitions::MAP_ENTRIES)?,
            map_capacity: gauges(&definitions::MAP_CAPACITY)?,
            map_limit: gauges(&definitions::MAP_LIMIT)?,
            sync_seconds: durations(&definitions::SYNC_DURATION)?,
            programming_seconds,
            last_sync,
            sync_errors: counter(&definitions::SYNC_ERRORS)?,
            not_in_kernel: gauge(&definitions::SERVICES_NOT_IN_SYNC)?,
            unsynced_ports: gauges(&definitions::SERVICE_NOT_IN_SYNC)?,
            writes: counters(&definitions::SYNCS)?,
            problems: gauge(&definitions::PROBLEMS)?,
            left_alone: gauge(&definitions::PODS_LEFT_ALONE)?,
            not_left_alone: gauge(&definitions::PODS_NOT_LEFT_ALONE)?,
            source_events: counters(&definitions::SOURCE_EVENTS)?,
            source_errors: counters(&definitions::SOURCE_ERRORS)?,
            repairs,
            sockets_closed,
            sockets_not_closed: counter(&definitions::SOCKETS_CLOSE_FAILED)?,
            sockets_seconds: durations(&definitions::SOCKETS_PASS_DURATION)?,
            helper_running: gauge(&definitions::HELPER_RUNNING)?,
            helpers_lost: counter(&definitions::HELPER_ENDED)?,
            source_age,
            source_connected: gauges(&definitions::SOURCE_CONNECTED)?,
            registry,
            kernel,
            stats,
        })
    }

    pub fn source_event(&self, event: &Event) {
        let (kind, what) = match event {
            Event::Replace(kind, _) => (*kind, "replace"),
            Event::Apply(sourced) => (sourced.reference.kind, "apply"),
            Event::Delete(reference) => (reference.kind, "delete"),
            Event::SourceErrors(_) | Event::Complete(_) => return,
        };
        self.source_events.with_label_values(&[kind.as_str(), what]).inc();
    }

    /// Counts a sync that ended: all changes are in the kernel but for those that failed.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.last_sync.set(Timestamp::now().as_millisecond() as f64 / 1e3);
    }

    /// Shows which service ports are not in the kernel as planned.
    pub fn unsynced_ports<'a>(&self, ports: impl ExactSizeIterator<Item = &'a str>) {
        self.not_in_kernel.set(as_i64(ports.len()));
        self.unsynced_ports.reset();
        for port in ports.take(NAMED_SERVICES) {
            self.unsynced_ports.with_label_values(&[port]).set(1);
        }
    }

    /// Counts a comparison of one scope: `everything`, `services` that changed, or those `left-out`.
    pub fn wrote(&self, scope: &str) {
        self.writes.with_label_values(&[scope]).inc();
    }

    /// Counts a change that is in the kernel from now on.
    pub fn programmed(&self, cause: &Cause) {
        let observe = |since: &str, latency: f64| {
            self.programming_seconds.with_label_values(&[since]).observe(latency);
        };
        observe("arrival", cause.arrived.elapsed().as_secs_f64());
        if let Some(triggered) = cause.triggered {
            let latency = Timestamp::now().duration_since(triggered).as_secs_f64();
            // The clock of the cluster's controller may be ahead of this node's.
            observe("trigger", latency.max(0.0));
        }
    }

    /// Shows how full the maps are.
    pub fn usage(&self, usage: &Usage, maps: &[MapUse]) {
        self.services.set(as_i64(usage.services));
        self.frontends.set(as_i64(usage.frontends));
        self.backends.set(usage.allocator.backends.into());
        for map in maps {
            let set = |gauges: &IntGaugeVec, value: u64| {
                gauges.with_label_values(&[&map.map]).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.map_entries, map.entries);
            set(&self.map_capacity, map.capacity);
            set(&self.map_limit, map.limit);
        }
    }

    pub fn sync_failed(&self) {
        self.sync_errors.inc();
    }

    pub fn left_alone(&self, pods: &[ExcludedPod]) {
        let found = pods.iter().filter(|pod| pod.cgroup_found && !pod.no_room).count();
        let missing =
            pods.iter().filter(|pod| pod.no_room || pod.running && !pod.cgroup_found).count();
        self.left_alone.set(as_i64(found));
        self.not_left_alone.set(as_i64(missing));
    }

    pub fn problems(&self, count: usize) {
        self.problems.set(as_i64(count));
    }

    pub fn repaired(&self, drift: &Drift) {
        for (kind, count) in drift.by_kind() {
            self.repairs.with_label_values(&[kind]).inc_by(count as u64);
        }
    }

    pub fn sockets_closed(&self, udp: usize, tcp: usize) {
        for (labels, closed) in CLOSED.iter().zip([udp, tcp]) {
            self.sockets_closed.with_label_values(labels).inc_by(closed as u64);
        }
    }

    pub fn sockets_not_closed(&self, count: usize) {
        self.sockets_not_closed.inc_by(count as u64);
    }

    /// Counts a search for sockets whose backend is gone.
    pub fn sockets_looked_at(&self, took: Duration) {
        self.sockets_seconds.observe(took.as_secs_f64());
    }

    pub fn helper_runs(&self) {
        self.helper_running.set(1);
    }

    pub fn helper_lost(&self) {
        self.helper_running.set(0);
        self.helpers_lost.inc();
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder refuses a metric.
    pub fn text(&self) -> prometheus::Result<String> {
        for kind in Kind::ALL {
            let counter = self.source_errors.with_label_values(&[kind.as_str()]);
            let errors = self.stats.kind(kind).errors.load(Ordering::Relaxed);
            counter.inc_by(errors.saturating_sub(counter.get()));
        }
        for watch in self.stats.watches() {
            self.source_connected.with_label_values(&[&watch.kind]).set(watch.connected.into());
            if let Some(age) = watch.age_seconds {
                self.source_age.with_label_values(&[&watch.kind]).set(age);
            }
        }
        let encoder = TextEncoder::new();
        let mut text = encoder.encode_to_string(&self.registry.gather())?;
        self.kernel.for_each(|family| encoder.encode_utf8(&[family], &mut text))?;
        Ok(text)
    }
}

/// Registers a metric; the registry and the caller share it.
fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
