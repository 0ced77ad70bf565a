//! Every metric: its name, type, labels and help.
//!
//! The metrics are registered from this table, and `deploy/docs/metrics.md` is written from it (`cargo
//! xtask docs`), so that a metric is described once.

use prometheus::Opts;

/// The type of a metric, as Prometheus has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label, and what its values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    /// For people, in Markdown.
    pub values: &'static str,
}

/// What is known of a metric before it has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [Label],
    /// One or more sentences without line breaks.
    pub help: &'static str,
}

impl Metric {
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }
}

const fn label(name: &'static str, values: &'static str) -> Label {
    Label { name, values }
}

const NAMESPACE: Label = label("namespace", "of the Service");
const SERVICE: Label = label("service", "name of the Service");
const PROTOCOL: Label = label("protocol", "`TCP`, `UDP`");
const MAP: Label = label("map", "as in `sockline status`");
const KIND: Label = label("kind", "`Service`, `EndpointSlice`, `Node`, `Namespace`, `Pod`");
const OF_SERVICE: &[Label] = &[NAMESPACE, SERVICE, PROTOCOL];

/// Defines a constant for each metric, and [`ALL`] of them in this order.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name,
            kind: MetricKind::$kind,
            labels: $labels,
            help: $help,
        };)*

        /// Every metric that an agent can have.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    CONNECTIONS_TRANSLATED: Counter "sockline_connections_translated_total" OF_SERVICE,
        "TCP and UDP connections, and new conversations of unconnected UDP sockets, that got a backend.";
    CONNECTIONS_REFUSED: Counter "sockline_connections_refused_total"
        &[NAMESPACE, SERVICE, PROTOCOL, label("reason", "`no-endpoints`, `no-local-endpoints`")],
        "Calls refused because the service has no endpoint.";
    CONNECTIONS_PASSED: Counter "sockline_connections_passed_total" OF_SERVICE,
        "Calls to a service address left unchanged, as the plan says.";
    CONNECTIONS_FAILED_OPEN: Counter "sockline_connections_failed_open_total" OF_SERVICE,
        "Calls to a service address left unchanged because no backend could be read.";
    CONNECTIONS_BYPASSED: Counter "sockline_connections_bypassed_total"
        &[NAMESPACE, SERVICE, PROTOCOL, label("reason", "`agent-gone`")],
        "Calls to a service address left unchanged because the agent had been gone for --fail-open-after.";
    KERNEL_FAULTS: Counter "sockline_kernel_faults_total"
        &[label(
            "fault",
            "`stale-entry`: an entry changed while it was read, and the second look-up succeeded; \
             `owner-mismatch`: that failed too, the call went through unchanged; \
             `not-remembered`: no record of a socket could be kept; \
             `affinity-full`, `counters-full`: no room in that map; \
             `socket-limit`: a cgroup, or all together, have as many records as allowed",
        )],
        "Things that should not happen in the kernel programs.";
    SERVICES: Gauge "sockline_services" &[], "Service ports in the kernel.";
    FRONTENDS: Gauge "sockline_frontends" &[], "Service addresses in the kernel.";
    BACKENDS: Gauge "sockline_backends" &[], "Backends in the kernel.";
    MAP_ENTRIES: Gauge "sockline_map_entries" &[MAP], "Entries in use, by map.";
    MAP_CAPACITY: Gauge "sockline_map_capacity" &[MAP],
        "Entries that there is memory for now, by map; it grows up to the limit.";
    MAP_LIMIT: Gauge "sockline_map_limit" &[MAP], "Entries that a map may grow to.";
    SYNC_DURATION: Histogram "sockline_sync_duration_seconds" &[],
        "Time that a sync took: planning and map writes, without the time that changes waited for it.";
    PROGRAMMING_LATENCY: Histogram "sockline_programming_latency_seconds"
        &[label("since", "`arrival`: read off the connection; `trigger`: in the cluster")],
        "Time until a change is in the kernel: since it arrived here, and since its trigger \
         in the cluster where the object names that \
         (endpoints.kubernetes.io/last-change-trigger-time).";
    LAST_SYNC: Gauge "sockline_last_sync_timestamp_seconds" &[],
        "When the kernel was last brought to the plan; 0 is never.";
    SYNCS: Counter "sockline_syncs_total"
        &[label("scope", "`everything`, `services` that changed, `left-out` ones again")],
        "Comparisons of the plan with what is in the kernel: of everything, of the services \
         that changed, or again of those that were left out.";
    SYNC_ERRORS: Counter "sockline_sync_errors_total" &[], "Syncs that left something out.";
    SERVICES_NOT_IN_SYNC: Gauge "sockline_services_not_in_sync" &[],
        "Service ports whose last change is not in the kernel, and 1 if the addresses of other nodes do not fit.";
    SERVICE_NOT_IN_SYNC: Gauge "sockline_service_not_in_sync"
        &[label("service_port", "`NAMESPACE/NAME:PORT/PROTOCOL`, `NodePorts at other nodes' addresses`")],
        "1 for a service port whose last change is not in the kernel; 100 are named at most.";
    PROBLEMS: Gauge "sockline_problems" &[], "Problems with the input, now.";
    SOURCE_EVENTS: Counter "sockline_source_events_total"
        &[KIND, label("event", "`replace`, `apply`, `delete`")],
        "Changes reported by the source.";
    SOURCE_ERRORS: Counter "sockline_source_errors_total" &[KIND], "Failed requests to the source.";
    SOURCE_CONNECTED: Gauge "sockline_source_connected" &[KIND], "1 while the watch of a kind is open.";
    SOURCE_AGE: Gauge "sockline_source_age_seconds" &[KIND],
        "Since the API server last said anything about a kind; it does at least once a minute.";
    PODS_LEFT_ALONE: Gauge "sockline_pods_left_alone" &[],
        "Pods of this node whose connections are left alone.";
    PODS_NOT_LEFT_ALONE: Gauge "sockline_pods_not_left_alone" &[],
        "Running pods that are to be left alone, but whose cgroup was not found or has no room.";
    SOCKETS_CLOSED: Counter "sockline_sockets_closed_total"
        &[PROTOCOL, label("reason", "UDP: `backend-gone`, TCP: `close-on-removal`")],
        "Sockets that were closed because their backend is gone.";
    SOCKETS_CLOSE_FAILED: Counter "sockline_sockets_close_failed_total" &[],
        "Sockets whose backend is gone and that could not be closed, and failed searches.";
    SOCKETS_PASS_DURATION: Histogram "sockline_sockets_pass_duration_seconds" &[],
        "Time of one search for sockets whose backend is gone, closing them included.";
    HELPER_RUNNING: Gauge "sockline_helper_running" &[],
        "1 while the process that closes sockets runs.";
    HELPER_ENDED: Counter "sockline_helper_ended_total" &[],
        "Unexpected ends of the process that closes sockets.";
    REPAIRS: Counter "sockline_repairs_total"
        &[label(
            "object",
            "`frontend`, `backend`, `slot`, `filter`, `name`, `exclusion`, `map`, `pin`, `link`",
        )],
        "Map entries, maps, pins and links that differed from the plan and were mended.";
    BUILD_INFO: Gauge "sockline_build_info" &[label("version", "of the agent")],
        "Always 1; the version is a label.";
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::counters::Fault;

    use super::*;
    use crate::{dataplane::Drift, model::object::Kind, telemetry::kernel::fault_name};

    #[test]
    fn names_are_those_that_prometheus_recommends() {
        for metric in ALL {
            assert!(metric.name.starts_with("sockline_"), "{}", metric.name);
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, metric.kind == MetricKind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
        }
    }

    #[test]
    fn the_values_of_labels_are_all_that_the_code_has() {
        for kind in Kind::ALL {
            assert!(KIND.values.contains(kind.as_str()), "{kind}");
        }
        for fault in Fault::ALL {
            let name = fault_name(fault);
            assert!(KERNEL_FAULTS.labels[0].values.contains(&format!("`{name}`")), "{name}");
        }
        for kind in Drift::KINDS {
            assert!(REPAIRS.labels[0].values.contains(&format!("`{kind}`")), "{kind}");
        }
    }
}
