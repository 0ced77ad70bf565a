//! The agent's own metrics, and all of them as text.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::kernel::KernelFamilies;
use crate::{
    agent::LeftOutPort,
    dataplane::{Drift, Usage, view::Counters},
    model::{object::Kind, plan::Cause},
    source::{Event, SourceStats},
    status::{LeftAlonePod, MapUse},
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
    left_out: IntGaugeVec,
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
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let gauges = |name: &str, help: &str| -> prometheus::Result<IntGaugeVec> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["map"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<_> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let sockets_closed = counters(
            "sockline_sockets_closed_total",
            "Sockets that were closed because their backend is gone.",
            &["protocol", "reason"],
        )?;
        for [protocol, reason] in CLOSED {
            sockets_closed.with_label_values(&[protocol, reason]);
        }
        let sockets_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "sockline_sockets_pass_duration_seconds",
                "Time of one search for sockets whose backend is gone, closing them included.",
            )
            .buckets(prometheus::exponential_buckets(0.000_1, 4.0, 10)?),
        )?;
        registry.register(Box::new(sockets_seconds.clone()))?;
        let sync_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "sockline_sync_duration_seconds",
                "Time from a change to all of it being in the kernel: planning and map writes.",
            )
            .buckets(prometheus::exponential_buckets(0.000_1, 4.0, 10)?),
        )?;
        registry.register(Box::new(sync_seconds.clone()))?;
        let programming_seconds = HistogramVec::new(
            HistogramOpts::new(
                "sockline_programming_latency_seconds",
                "Time until a change is in the kernel: since it arrived here, and since its trigger \
                 in the cluster where the object names that \
                 (endpoints.kubernetes.io/last-change-trigger-time).",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["since"],
        )?;
        registry.register(Box::new(programming_seconds.clone()))?;
        for since in ["arrival", "trigger"] {
            programming_seconds.with_label_values(&[since]);
        }
        let last_sync = Gauge::new(
            "sockline_last_sync_timestamp_seconds",
            "When the kernel was last brought to the plan; 0 is never.",
        )?;
        registry.register(Box::new(last_sync.clone()))?;
        let source_age = GaugeVec::new(
            Opts::new(
                "sockline_source_age_seconds",
                "Since the API server last said anything about a kind; it does at least once a minute.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(source_age.clone()))?;
        let source_connected = IntGaugeVec::new(
            Opts::new("sockline_source_connected", "1 while the watch of a kind is open."),
            &["kind"],
        )?;
        registry.register(Box::new(source_connected.clone()))?;
        let sync_errors =
            IntCounter::new("sockline_sync_errors_total", "Syncs that left something out.")?;
        registry.register(Box::new(sync_errors.clone()))?;
        let left_out = IntGaugeVec::new(
            Opts::new(
                "sockline_service_not_in_sync",
                "1 for a service port whose last change is not in the kernel; 100 are named at most.",
            ),
            &["service_port"],
        )?;
        registry.register(Box::new(left_out.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("sockline_build_info", "Always 1; the version is a label."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let repairs = counters(
            "sockline_repairs_total",
            "Map entries, maps, pins and links that differed from the plan and were mended.",
            &["object"],
        )?;
        for kind in Drift::KINDS {
            repairs.with_label_values(&[kind]);
        }
        Ok(Self {
            services: gauge("sockline_services", "Service ports in the kernel.")?,
            frontends: gauge("sockline_frontends", "Service addresses in the kernel.")?,
            backends: gauge("sockline_backends", "Backends in the kernel.")?,
            map_entries: gauges("sockline_map_entries", "Entries in use, by map.")?,
            map_capacity: gauges(
                "sockline_map_capacity",
                "Entries that there is memory for now, by map; it grows up to the limit.",
            )?,
            map_limit: gauges("sockline_map_limit", "Entries that a map may grow to.")?,
            sync_seconds,
            programming_seconds,
            last_sync,
            sync_errors,
            not_in_kernel: gauge(
                "sockline_services_not_in_sync",
                "Service ports whose last change is not in the kernel.",
            )?,
            left_out,
            writes: counters(
                "sockline_syncs_total",
                "Comparisons of the plan with what is in the kernel: of everything, of the services \
                 that changed, or again of those that were left out.",
                &["scope"],
            )?,
            problems: gauge("sockline_problems", "Problems with the input, now.")?,
            left_alone: gauge(
                "sockline_pods_left_alone",
                "Pods of this node whose connections are left alone.",
            )?,
            not_left_alone: gauge(
                "sockline_pods_not_left_alone",
                "Running pods that are to be left alone, but whose cgroup was not found or has no room.",
            )?,
            source_events: counters(
                "sockline_source_events_total",
                "Changes reported by the source.",
                &["kind", "event"],
            )?,
            source_errors: counters(
                "sockline_source_errors_total",
                "Failed requests to the source.",
                &["kind"],
            )?,
            repairs,
            sockets_closed,
            sockets_not_closed: counter(
                "sockline_sockets_close_failed_total",
                "Sockets whose backend is gone and that could not be closed, and failed searches.",
            )?,
            sockets_seconds,
            helper_running: gauge(
                "sockline_helper_running",
                "1 while the process that closes sockets runs.",
            )?,
            helpers_lost: counter(
                "sockline_helper_ended_total",
                "Unexpected ends of the process that closes sockets.",
            )?,
            source_age,
            source_connected,
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
            Event::Trouble(_) | Event::Complete(_) => return,
        };
        self.source_events.with_label_values(&[kind.as_str(), what]).inc();
    }

    /// Counts a sync that ended: all changes are in the kernel but for those that failed.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.last_sync.set(Timestamp::now().as_millisecond() as f64 / 1e3);
    }

    /// Service ports that are not in the kernel as planned.
    pub fn left_out(&self, ports: &BTreeSet<LeftOutPort>) {
        self.not_in_kernel.set(as_i64(ports.len()));
        self.left_out.reset();
        for port in ports.iter().take(NAMED_SERVICES) {
            self.left_out.with_label_values(&[&port.port]).set(1);
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
        self.backends.set(usage.pool.backends.into());
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

    pub fn left_alone(&self, pods: &[LeftAlonePod]) {
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

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
