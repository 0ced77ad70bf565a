//! One node: what it serves, and how its agent is.

use super::{
    grafana::{
        Choice, Dashboard,
        Kind::{Alarm, Areas, Lines, Number},
        Panel, Row,
        Unit::{Bytes, Count, PerSecond, Seconds, Share},
        Variable, quantile, rate,
    },
    shared,
};

fn of(metric: &str) -> String {
    format!("{metric}{{instance=\"$instance\"}}")
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "sockline-node",
        title: "Sockline / Node",
        description: "The services of one node, and its agent.",
        variables: vec![Variable {
            name: "instance",
            label: "Node",
            series: "sockline_build_info",
            choice: Choice::One,
        }],
        rows: vec![now(), connections(), state(), programming(), process()],
    }
}

fn now() -> Row {
    Row {
        title: "Now",
        panels: vec![
            Panel::new(Number, Count, "Service ports", "Service ports in the kernel.")
                .query("service ports", of("sockline_service_ports")),
            Panel::new(Number, Count, "Active connections", "Connections that are open.")
                .query("active", format!("sum({})", of("sockline_connections_active"))),
            Panel::new(
                Alarm,
                Count,
                "Out of sync",
                "Service ports whose last change is not in the kernel.",
            )
            .query("out of sync", of("sockline_service_ports_out_of_sync")),
            Panel::new(Alarm, Count, "Invalid objects", "Objects with fields that cannot be used.")
                .query("invalid", of("sockline_invalid_objects")),
            Panel::new(
                Alarm,
                Count,
                "Watches away",
                "Watches of the API server that are not connected.",
            )
            .query("away", format!("count({} == 0) or vector(0)", of("sockline_watch_connected"))),
            Panel::new(
                Alarm,
                Count,
                "Helper away",
                "1 if the process that closes sockets of removed endpoints does not run.",
            )
            .query("away", format!("1 - {}", of("sockline_helper_running"))),
        ],
    }
}

fn connections() -> Row {
    Row {
        title: "Connections of this node's pods",
        panels: vec![
            Panel::new(Areas, PerSecond, "Opened, by namespace", "Connections that got a backend.")
                .query(
                    "{{namespace}}",
                    rate("namespace", &of("sockline_connections_opened_total")),
                ),
            shared::not_established(
                of,
                "Connections that failed, and calls that were refused because there is no endpoint.",
            ),
            Panel::new(
                Lines,
                PerSecond,
                "Sockets closed",
                "Sockets that the agent closed because their endpoint was removed.",
            )
            .query(
                "{{protocol}}: {{reason}}",
                rate("protocol, reason", &of("sockline_sockets_closed_total")),
            ),
            shared::not_translated(
                of,
                "Calls to Services that went through unchanged.",
                rate("instance", &of("sockline_connections_failed_open_total")),
            ),
        ],
    }
}

fn state() -> Row {
    Row {
        title: "Kernel",
        panels: vec![
            Panel::new(Lines, Share, "Maps", "Share of the entries that are in use.").query(
                "{{map}}",
                format!("{} / {}", of("sockline_bpf_map_entries"), of("sockline_bpf_map_max_entries")),
            ),
            Panel::new(
                Lines,
                PerSecond,
                "Faults",
                "Events in the kernel programs that should not happen, and repairs of what another program changed.",
            )
            .query("{{fault}}", rate("fault", &of("sockline_kernel_faults_total")))
            .query("repaired: {{object}}", rate("object", &of("sockline_drift_repairs_total"))),
        ],
    }
}

fn programming() -> Row {
    let sync = of("sockline_sync_duration_seconds_bucket");
    Row {
        title: "Programming",
        panels: vec![
            Panel::new(
                Lines,
                Seconds,
                "Until a change is in the kernel",
                "From the arrival of a change at the agent to the end of its last map write.",
            )
            .query(
                "p50",
                quantile(
                    0.5,
                    "",
                    "sockline_network_programming_duration_seconds_bucket{instance=\"$instance\", since=\"arrival\"}",
                ),
            )
            .query(
                "p99",
                quantile(
                    0.99,
                    "",
                    "sockline_network_programming_duration_seconds_bucket{instance=\"$instance\", since=\"arrival\"}",
                ),
            ),
            Panel::new(Lines, Seconds, "Sync", "Duration of a sync: planning and map writes.")
                .query("p50", quantile(0.5, "", &sync))
                .query("p99", quantile(0.99, "", &sync)),
            Panel::new(Areas, PerSecond, "Changes", "Changes that the agent received, by kind.")
                .query("{{kind}}", rate("kind", &of("sockline_source_events_total"))),
            Panel::new(
                Lines,
                PerSecond,
                "Errors",
                "Syncs that could not write everything, and failed requests to the API server.",
            )
            .query("syncs", rate("instance", &of("sockline_sync_errors_total")))
            .query("source: {{kind}}", rate("kind", &of("sockline_source_errors_total"))),
        ],
    }
}

fn process() -> Row {
    Row {
        title: "Agent",
        panels: vec![
            Panel::new(Lines, Share, "CPU", "Share of one CPU.").width(8).query(
                "agent",
                format!("rate({}[$__rate_interval])", of("process_cpu_seconds_total")),
            ),
            Panel::new(Lines, Bytes, "Memory", "Resident memory of the agent.")
                .width(8)
                .query("agent", of("process_resident_memory_bytes")),
            Panel::new(Lines, Count, "Open files", "File descriptors of the agent.")
                .width(8)
                .query("agent", of("process_open_fds")),
        ],
    }
}
