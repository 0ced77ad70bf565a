//! Every family of metrics: its type, labels, name and help, and the labels that families have.
//!
//! `deploy/docs/metrics.md` is generated from this file (`cargo xtask docs`). To add a metric, add a row to
//! [`Families`], and set it where its value is known: in `metrics.rs` for what the agent counts, in a file like
//! `kernel.rs` for what a scrape reads from elsewhere.

use std::sync::Arc;

use sockline_ebpf::counters::Fault;

use super::{
    family::{
        Counter, Definition, FamilyType, Gauge, Histogram, ScrapedCounter, ScrapedGauge, families,
    },
    labels::{LabelValue, Labels, Value, label_values, labels},
};
use crate::{
    dataplane::{Drift, fault_name},
    model::object::{Kind, Protocol},
};

/// Seconds: what the agent does in one go, from a small change to everything.
const WORK: &[f64] =
    &[0.000_1, 0.000_4, 0.001_6, 0.006_4, 0.025_6, 0.102_4, 0.409_6, 1.638_4, 6.553_6, 26.214_4];
/// Seconds: from what a small change takes to what an operator would not wait for.
const LATENCY: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0, 60.0,
];

families! {
    /// All families of the agent.
    pub struct Families {
        connections_translated: ScrapedCounter<ServiceLabels> =
            "sockline_connections_translated_total",
            "TCP and UDP connections, and new flows of unconnected UDP sockets, that got a backend.";
        connections_refused: ScrapedCounter<(ServiceLabels, RefusalLabels)> =
            "sockline_connections_refused_total",
            "Calls refused because the Service has no endpoint.";
        connections_bypassed: ScrapedCounter<(ServiceLabels, BypassLabels)> =
            "sockline_connections_bypassed_total",
            "Calls to a Service's address that were not translated on purpose.";
        connections_failed_open: ScrapedCounter<ServiceLabels> =
            "sockline_connections_failed_open_total",
            "Calls to a Service's address that were not translated because no backend could be read.";
        kernel_faults: ScrapedCounter<FaultLabels> =
            "sockline_kernel_faults_total",
            "Events in the kernel programs that should not happen.";
        service_ports: Gauge<()> =
            "sockline_service_ports",
            "Service ports in the kernel.";
        frontends: Gauge<()> =
            "sockline_frontends",
            "Service addresses in the kernel.";
        backends: Gauge<()> =
            "sockline_backends",
            "Backends in the kernel; an endpoint counts once for each service port.";
        bpf_map_entries: Gauge<MapLabels> =
            "sockline_bpf_map_entries",
            "Entries in use.";
        bpf_map_allocated_entries: Gauge<MapLabels> =
            "sockline_bpf_map_allocated_entries",
            "Entries that have memory now. Maps grow up to their maximum.";
        bpf_map_max_entries: Gauge<MapLabels> =
            "sockline_bpf_map_max_entries",
            "Maximum number of entries.";
        sync_duration: Histogram<()> =
            "sockline_sync_duration_seconds",
            "Duration of a sync: planning and map writes, without the time that changes waited for it.",
            WORK;
        network_programming_duration: Histogram<ProgrammingLabels> =
            "sockline_network_programming_duration_seconds",
            "Time until a change is in the kernel.",
            LATENCY;
        last_sync_timestamp: Gauge<()> =
            "sockline_last_sync_timestamp_seconds",
            "Unix time of the last successful sync; 0 before the first.";
        syncs: Counter<SyncLabels> =
            "sockline_syncs_total",
            "Syncs: comparisons of the plan with the maps, and writes of what differs.";
        sync_errors: Counter<()> =
            "sockline_sync_errors_total",
            "Syncs that could not write everything.";
        service_ports_out_of_sync: Gauge<()> =
            "sockline_service_ports_out_of_sync",
            "Service ports whose last change is not in the kernel.";
        service_port_out_of_sync: Gauge<ServicePortLabels> =
            "sockline_service_port_out_of_sync",
            "1 for a service port whose last change is not in the kernel, for at most 100 of them.";
        other_nodes_out_of_sync: Gauge<()> =
            "sockline_other_nodes_out_of_sync",
            "1 if NodePorts at the addresses of other nodes are not in the kernel as planned.";
        invalid_objects: Gauge<()> =
            "sockline_invalid_objects",
            "Objects of the source with fields that cannot be used.";
        source_events: Counter<EventLabels> =
            "sockline_source_events_total",
            "Changes received from the source.";
        source_errors: ScrapedCounter<KindLabels> =
            "sockline_source_errors_total",
            "Failed requests to the API server, and watches that broke.";
        watch_connected: ScrapedGauge<KindLabels> =
            "sockline_watch_connected",
            "1 while the watch is open.";
        watch_last_event_timestamp: ScrapedGauge<KindLabels> =
            "sockline_watch_last_event_timestamp_seconds",
            "Unix time of the last event, bookmark or list from the API server. It sends one at least once a minute.";
        excluded_pods: Gauge<()> =
            "sockline_excluded_pods",
            "Excluded pods of this node: their connections are not translated.";
        excluded_pods_unresolved: Gauge<()> =
            "sockline_excluded_pods_unresolved",
            "Running pods that should be excluded, but whose cgroup was not found or has no room in the map.";
        sockets_closed: Counter<ClosedLabels> =
            "sockline_sockets_closed_total",
            "Sockets that were closed because their backend was removed.";
        socket_close_errors: Counter<()> =
            "sockline_socket_close_errors_total",
            "Sockets whose backend was removed and that could not be closed, and scans that failed.";
        socket_scan_duration: Histogram<()> =
            "sockline_socket_scan_duration_seconds",
            "Duration of a scan for sockets whose backend was removed, closing them included.",
            WORK;
        helper_running: Gauge<()> =
            "sockline_helper_running",
            "1 while the helper process, which closes sockets, runs.";
        helper_exits: Counter<()> =
            "sockline_helper_exits_total",
            "Unexpected exits of the helper process.";
        drift_repairs: Counter<DriftLabels> =
            "sockline_drift_repairs_total",
            "Map entries, maps, pins and links that differed from the plan and were repaired.";
        build_info: Gauge<BuildLabels> =
            "sockline_build_info",
            "Always 1; the version is a label.";
        process_cpu_seconds: ScrapedCounter<()> =
            "process_cpu_seconds_total",
            "User and system CPU time of the agent.";
        process_open_fds: ScrapedGauge<()> =
            "process_open_fds",
            "Open file descriptors of the agent.";
        process_max_fds: ScrapedGauge<()> =
            "process_max_fds",
            "Maximum number of open file descriptors.";
        process_resident_memory: ScrapedGauge<()> =
            "process_resident_memory_bytes",
            "Resident memory of the agent.";
        process_virtual_memory: ScrapedGauge<()> =
            "process_virtual_memory_bytes",
            "Virtual memory of the agent.";
        process_threads: ScrapedGauge<()> =
            "process_threads",
            "Threads of the agent.";
        process_start_time: ScrapedGauge<()> =
            "process_start_time_seconds",
            "Unix time of the agent's start.";
    }
}

labels! {
    pub struct ServiceLabels {
        /// of the Service
        namespace: Arc<str>,
        /// name of the Service
        service: Arc<str>,
        /// of the service port
        protocol: Protocol,
    }

    pub struct RefusalLabels {
        /// why the Service has no endpoint
        reason: RefusalReason,
    }

    pub struct BypassLabels {
        /// why the call is not translated
        reason: BypassReason,
    }

    pub struct ServicePortLabels {
        /// of the Service
        namespace: Arc<str>,
        /// name of the Service
        service: Arc<str>,
        /// name of the service port; absent if it has none
        port: Arc<str>,
        /// of the service port
        protocol: Protocol,
    }

    pub struct FaultLabels {
        /// what happened
        fault: Fault,
    }

    pub struct MapLabels {
        /// as in `sockline status`
        map: Arc<str>,
    }

    pub struct ProgrammingLabels {
        /// where the time starts
        since: Since,
    }

    pub struct SyncLabels {
        /// which services
        scope: SyncScope,
    }

    pub struct EventLabels {
        /// of the object
        kind: Kind,
        /// what happened to it
        event: EventType,
    }

    pub struct KindLabels {
        /// of the object
        kind: Kind,
    }

    pub struct ClosedLabels {
        /// of the socket
        protocol: Protocol,
        /// why it was closed
        reason: CloseReason,
    }

    pub struct DriftLabels {
        /// what was repaired
        object: DriftKind,
    }

    pub struct BuildLabels {
        /// of the agent
        version: &'static str,
    }
}

label_values! {
    pub enum RefusalReason {
        /// no endpoint is ready
        NoEndpoints = "no-endpoints",
        /// none on this node, and the traffic policy is `Local`
        NoLocalEndpoints = "no-local-endpoints",
    }

    pub enum BypassReason {
        /// `sockline services` shows the address with the action `bypass`
        Planned = "planned",
        /// the agent had been gone for `--fail-open-after`
        AgentGone = "agent-gone",
    }

    pub enum Since {
        /// the agent received it
        Arrival = "arrival",
        /// it was made in the cluster, where the object has the time (`endpoints.kubernetes.io/last-change-trigger-time`)
        Trigger = "trigger",
    }

    pub enum SyncScope {
        /// all services
        Full = "full",
        /// services that changed
        Changes = "changes",
        /// services that were out of sync
        Retry = "retry",
    }

    pub enum EventType {
        /// a list of all objects of the kind
        Replace = "replace",
        /// added or changed
        Apply = "apply",
        /// deleted
        Delete = "delete",
    }

    pub enum CloseReason {
        /// UDP: the endpoint was removed
        BackendGone = "backend-gone",
        /// TCP: the Service has the annotation `sockline.dev/close-on-removal`
        CloseOnRemoval = "close-on-removal",
    }
}

impl LabelValue for Kind {
    const VALUES: &'static [Value] = &[
        Value { name: "Service", meaning: "" },
        Value { name: "EndpointSlice", meaning: "" },
        Value { name: "Node", meaning: "" },
        Value { name: "Namespace", meaning: "" },
        Value { name: "Pod", meaning: "" },
    ];

    fn to_label(&self) -> String {
        self.as_str().to_owned()
    }
}

/// SCTP is not translated, so no series has it.
impl LabelValue for Protocol {
    const VALUES: &'static [Value] =
        &[Value { name: "TCP", meaning: "" }, Value { name: "UDP", meaning: "" }];

    fn to_label(&self) -> String {
        self.as_str().to_owned()
    }
}

impl LabelValue for Fault {
    const VALUES: &'static [Value] = &[
        Value {
            name: fault_name(Fault::StaleEntry),
            meaning: "an entry changed while it was read, and the second look-up succeeded",
        },
        Value {
            name: fault_name(Fault::OwnerMismatch),
            meaning: "the second look-up failed too, and the call was not translated",
        },
        Value {
            name: fault_name(Fault::NotRemembered),
            meaning: "no record of a socket could be kept: `getpeername()` returns the endpoint's address",
        },
        Value {
            name: fault_name(Fault::AffinityFull),
            meaning: "no room for a client's session affinity",
        },
        Value {
            name: fault_name(Fault::CountersFull),
            meaning: "no room for a service port's counters",
        },
        Value {
            name: fault_name(Fault::SocketLimit),
            meaning: "a cgroup, or all together, have as many records of sockets as allowed",
        },
    ];

    fn to_label(&self) -> String {
        fault_name(*self).to_owned()
    }
}

/// One of [`Drift::KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriftKind(pub &'static str);

impl LabelValue for DriftKind {
    const VALUES: &'static [Value] = &{
        let mut values = [Value { name: "", meaning: "" }; Drift::KINDS.len()];
        let mut at = 0;
        while at < values.len() {
            values[at].name = Drift::KINDS[at].name;
            at += 1;
        }
        values
    };

    fn to_label(&self) -> String {
        self.0.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::telemetry::family::MetricKind;

    #[test]
    fn every_family_can_be_made_and_written() {
        let families = Families::default();
        families.sync_duration.with(()).observe(1.0);
        families.network_programming_duration.with(ProgrammingLabels { since: Since::Arrival });
        families.socket_scan_duration.with(());
        let mut text = String::new();
        families.write_kept(&mut text).unwrap();
        assert!(
            text.contains("sockline_sync_duration_seconds_bucket{le=\"0.0001\"} 0\n"),
            "{text}"
        );
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names = BTreeSet::new();
        for family in ALL {
            let name = family.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("sockline_") || name.starts_with("process_"), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, family.kind == MetricKind::Counter, "{name}");
            assert_eq!(family.buckets.is_empty(), family.kind != MetricKind::Histogram, "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn values_of_labels_are_kebab_case_or_the_words_of_kubernetes() {
        let labels = ALL.iter().flat_map(|family| (family.labels)());
        let values = labels.flat_map(|label| label.values).map(|value| value.name);
        for value in values {
            let is_kebab = value.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let is_of_kubernetes = Kind::ALL.iter().any(|kind| kind.as_str() == value);
            assert!(is_kebab || is_of_kubernetes || ["TCP", "UDP"].contains(&value), "{value}");
        }
    }

    #[test]
    fn every_kind_and_fault_is_a_known_value() {
        for kind in Kind::ALL {
            assert!(Kind::VALUES.iter().any(|value| value.name == kind.as_str()), "{kind}");
        }
        let faults: BTreeSet<String> = Fault::ALL.iter().map(LabelValue::to_label).collect();
        assert_eq!(faults.len(), Fault::VALUES.len());
    }
}
