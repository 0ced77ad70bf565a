//! The table of all families. To add a metric, add a row, and set it where its value is known: in `metrics.rs` for
//! what the agent counts, in a file like `kernel.rs` for what a scrape reads from elsewhere.

use sockline_ebpf::telemetry;

use super::label_sets::{
    BuildLabels, BypassLabels, ClassLabels, ClosedLabels, DriftLabels, EndLabels, EventLabels,
    FailureLabels, FaultLabels, IstioLabels, KindLabels, LossLabels, MapLabels, ProgramLabels,
    ProgrammingLabels, RefusalLabels, ServicePortLabels, SourceLabels, SyncLabels,
};
use crate::telemetry::{
    family::{
        Counter, Definition, FamilyType, Gauge, Histogram, ScrapedCounter, ScrapedGauge,
        ScrapedHistogram, families,
    },
    labels::Labels,
};

/// Seconds: what the agent does in one go, from a small change to everything.
const WORK: &[f64] =
    &[0.000_1, 0.000_4, 0.001_6, 0.006_4, 0.025_6, 0.102_4, 0.409_6, 1.638_4, 6.553_6, 26.214_4];
/// Seconds: from what a small change takes to what an operator would not wait for.
const LATENCY: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0, 60.0,
];

/// Upper bounds of what the programs count.
pub const ROUND_TRIP_BOUNDS: [f64; telemetry::ROUND_TRIP_BUCKETS - 1] = {
    let mut bounds = [0.0; telemetry::ROUND_TRIP_BUCKETS - 1];
    let mut bucket = 0;
    while bucket < bounds.len() {
        bounds[bucket] = telemetry::round_trip_bound(bucket);
        bucket += 1;
    }
    bounds
};
/// As [`ROUND_TRIP_BOUNDS`].
pub const LIFETIME_BOUNDS: [f64; telemetry::LIFETIME_BUCKETS - 1] = {
    let mut bounds = [0.0; telemetry::LIFETIME_BUCKETS - 1];
    let mut bucket = 0;
    while bucket < bounds.len() {
        bounds[bucket] = telemetry::lifetime_bound(bucket);
        bucket += 1;
    }
    bounds
};

/// When the bytes and segments of a connection are counted: in the helps of all families that count them.
macro_rules! counted_when {
    ($ends:literal, $open:literal) => {
        concat!("counted when ", $ends, ", and about every 10 s while ", $open, " open")
    };
}

families! {
    /// All families of the agent.
    pub struct Families {
        connections_translated: ScrapedCounter<ServicePortLabels> =
            "sockline_connections_translated_total",
            "TCP and UDP connections, and new flows of unconnected UDP sockets, that got a backend.";
        connections_opened: ScrapedCounter<ServicePortLabels> =
            "sockline_connections_opened_total",
            "Connections that got a backend, of Service ports that were ever used: those that are active, closed or \
             untracked.";
        connections_active: ScrapedGauge<ServicePortLabels> =
            "sockline_connections_active",
            "Connections that are open, or being opened.";
        connections_hanging: ScrapedGauge<ServicePortLabels> =
            "sockline_connections_hanging",
            "TCP connections that are being opened and whose SYN had no answer for a second, as seen about every 10 s. Absent while \
             open connections cannot be read.";
        connections_closed: ScrapedCounter<(ServicePortLabels, EndLabels)> =
            "sockline_connections_closed_total",
            "Connections that ended.";
        connections_failed: ScrapedCounter<(ServicePortLabels, FailureLabels)> =
            "sockline_connections_failed_total",
            "Connections that ended without having been established; they are closed, too.";
        connections_untracked: ScrapedCounter<ServicePortLabels> =
            "sockline_connections_untracked_total",
            "Connections whose close is not observed: no record of the socket could be kept, or the kernel closes it by itself.";
        backends_failing: ScrapedGauge<ServicePortLabels> =
            "sockline_backends_failing",
            "Backends whose last connections, three at least, were not established: refused, timed out or unreachable, the last of \
             them in the last 5 minutes. Clients that give up do not count.";
        connections_unanswered: ScrapedCounter<ServicePortLabels> =
            "sockline_connections_unanswered_total",
            "Established connections that ended without a byte from the backend, though the client had sent some.";
        sent_bytes: ScrapedCounter<ServicePortLabels> =
            "sockline_sent_bytes_total",
            concat!(
                "Bytes that clients of this node wrote to TCP connections, ",
                counted_when!("those end", "they are"),
                "."
            );
        received_bytes: ScrapedCounter<ServicePortLabels> =
            "sockline_received_bytes_total",
            concat!(
                "Bytes that backends sent on TCP connections, ",
                counted_when!("those end", "they are"),
                "."
            );
        class_connections_opened: ScrapedCounter<(ServicePortLabels, ClassLabels)> =
            "sockline_traffic_class_connections_opened_total",
            "`sockline_connections_opened_total` by how far traffic goes. What an endpoint has counted stays with the class that \
             it had.";
        class_sent_bytes: ScrapedCounter<(ServicePortLabels, ClassLabels)> =
            "sockline_traffic_class_sent_bytes_total",
            "`sockline_sent_bytes_total` by how far traffic goes.";
        class_received_bytes: ScrapedCounter<(ServicePortLabels, ClassLabels)> =
            "sockline_traffic_class_received_bytes_total",
            "`sockline_received_bytes_total` by how far traffic goes.";
        retransmitted_segments: ScrapedCounter<ServicePortLabels> =
            "sockline_retransmitted_segments_total",
            concat!(
                "TCP segments that clients of this node sent again, ",
                counted_when!("the connection ends", "it is"),
                ". Of failed connects whose error the application already read (`SO_ERROR`), only those that were counted while it was open."
            );
        round_trip: ScrapedHistogram<ServicePortLabels> =
            "sockline_round_trip_seconds",
            "Smoothed round-trip time of a TCP connection when it ended, as the client's kernel measured it.",
            &ROUND_TRIP_BOUNDS;
        connection_lifetime: ScrapedHistogram<ServicePortLabels> =
            "sockline_connection_lifetime_seconds",
            "Time from `connect()` to the end of connections that were established, and of UDP flows. Measured in ticks of the kernel's clock (1 to 10 ms), rounded down.",
            &LIFETIME_BOUNDS;
        client_connections_opened: ScrapedCounter<(SourceLabels, ServicePortLabels)> =
            "sockline_client_connections_opened_total",
            "With `--metrics-source-workload`: connections of a client workload that got a backend, since the agent began. \
             Series of workloads that are gone disappear.";
        client_connections_active: ScrapedGauge<(SourceLabels, ServicePortLabels)> =
            "sockline_client_connections_active",
            "With `--metrics-source-workload`: those that are open, or being opened.";
        client_connections_closed: ScrapedCounter<(SourceLabels, ServicePortLabels)> =
            "sockline_client_connections_closed_total",
            "With `--metrics-source-workload`: those that ended, since the agent began.";
        client_connections_failed: ScrapedCounter<(SourceLabels, ServicePortLabels)> =
            "sockline_client_connections_failed_total",
            "With `--metrics-source-workload`: those of them that were not established.";
        client_sent_bytes: ScrapedCounter<(SourceLabels, ServicePortLabels)> =
            "sockline_client_sent_bytes_total",
            concat!(
                "With `--metrics-source-workload`: bytes that clients wrote, ",
                counted_when!("a connection ends", "it is"),
                "."
            );
        client_received_bytes: ScrapedCounter<(SourceLabels, ServicePortLabels)> =
            "sockline_client_received_bytes_total",
            concat!(
                "With `--metrics-source-workload`: bytes that backends sent, ",
                counted_when!("a connection ends", "it is"),
                "."
            );
        istio_connections_opened: ScrapedCounter<IstioLabels> =
            "istio_tcp_connections_opened_total",
            "With `--metrics-dialect=istio`: TCP connections of a client workload that got a backend, since the agent began.";
        istio_connections_closed: ScrapedCounter<IstioLabels> =
            "istio_tcp_connections_closed_total",
            "With `--metrics-dialect=istio`: those that ended. Those that were not established have `response_flags=\"UF\"`.";
        istio_sent_bytes: ScrapedCounter<IstioLabels> =
            "istio_tcp_sent_bytes_total",
            concat!(
                "With `--metrics-dialect=istio`: bytes of answers, which backends sent, ",
                counted_when!("a connection ends", "it is"),
                "."
            );
        istio_received_bytes: ScrapedCounter<IstioLabels> =
            "istio_tcp_received_bytes_total",
            concat!(
                "With `--metrics-dialect=istio`: bytes of requests, which clients sent, ",
                counted_when!("a connection ends", "it is"),
                "."
            );
        connections_refused: ScrapedCounter<(ServicePortLabels, RefusalLabels)> =
            "sockline_connections_refused_total",
            "Calls refused because the Service has no endpoint.";
        connections_bypassed: ScrapedCounter<(ServicePortLabels, BypassLabels)> =
            "sockline_connections_bypassed_total",
            "Calls to a Service's address that were not translated on purpose.";
        connections_failed_open: ScrapedCounter<ServicePortLabels> =
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
        bpf_program_runs: ScrapedCounter<ProgramLabels> =
            "sockline_bpf_program_runs_total",
            "Runs of a kernel program since the agent began, while `kernel.bpf_stats_enabled` is 1; no series before the first one.";
        bpf_program_run_time: ScrapedCounter<ProgramLabels> =
            "sockline_bpf_program_run_seconds_total",
            "Time of these runs.";
        clients_evicted: Counter<()> =
            "sockline_clients_evicted_total",
            "Clients × service ports whose counts were dropped because `--max-clients` was reached.";
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
        event_watchers: Gauge<()> =
            "sockline_event_watchers",
            "Clients that watch events of connections (`sockline watch`). Programs write events while there are any.";
        events_written: ScrapedCounter<()> =
            "sockline_events_written_total",
            "Events of connections that programs wrote.";
        events_lost: ScrapedCounter<LossLabels> =
            "sockline_events_lost_total",
            "Events of connections that a client watched and did not get.";
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
