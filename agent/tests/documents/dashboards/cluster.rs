//! All nodes, and the Services with the most traffic and the most failures.

use super::{
    grafana::{
        Choice, Dashboard,
        Kind::{Alarm, Areas, Lines, Number, Table},
        Panel, Row,
        Unit::{Count, PerSecond, Seconds},
        Variable, quantile, rate,
    },
    shared::{self, sum_of_rate},
};

const OF_NAMESPACES: &str = "{namespace=~\"$namespace\"}";

fn of(metric: &str) -> String {
    format!("{metric}{OF_NAMESPACES}")
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "sockline-cluster",
        title: "Sockline / Cluster",
        description: "Service connections of all nodes, and the agents.",
        variables: vec![Variable {
            name: "namespace",
            label: "Namespace",
            series: "sockline_connections_opened_total",
            choice: Choice::Several,
        }],
        rows: vec![now(), connections(), services(), agents()],
    }
}

fn now() -> Row {
    Row {
        title: "Now",
        panels: vec![
            Panel::new(Number, Count, "Agents", "Agents that Prometheus scrapes.")
                .query("agents", "count(sockline_build_info)"),
            Panel::new(Alarm, Count, "Agents away", "Agents that do not answer.")
                .query("away", "count(up{job=~\"(.*/)?sockline\"} == 0) or vector(0)"),
            Panel::new(
                Alarm,
                Count,
                "Service ports out of sync",
                "Service ports whose last change is not in the kernel, on all nodes.",
            )
            .query("out of sync", "sum(sockline_service_ports_out_of_sync)"),
            Panel::new(
                Alarm,
                Count,
                "Invalid objects",
                "Services, EndpointSlices and other objects with fields that cannot be used.",
            )
            .query("invalid", "max(sockline_invalid_objects)"),
            Panel::new(Number, Count, "Active connections", "Connections that are open.")
                .query("active", format!("sum({})", of("sockline_connections_active"))),
            Panel::new(
                Alarm,
                Count,
                "Drift repairs in an hour",
                "Entries, maps, pins and links in the kernel that another program changed and agents repaired.",
            )
            .query("repairs", "round(sum(increase(sockline_drift_repairs_total[1h])))"),
        ],
    }
}

fn connections() -> Row {
    Row {
        title: "Connections",
        panels: vec![
            Panel::new(Areas, PerSecond, "Opened", "Connections that got a backend, by namespace.")
                .query(
                    "{{namespace}}",
                    rate("namespace", &of("sockline_connections_opened_total")),
                ),
            shared::not_established(
                of,
                "Connections that failed, by reason, and calls that were refused because there is no endpoint.",
            ),
            shared::ended(of),
            Panel::new(
                Lines,
                Seconds,
                "Round-trip time",
                "Of TCP connections, as the client's kernel had it when they ended.",
            )
            .query("p50", quantile(0.5, "", &of("sockline_round_trip_seconds_bucket")))
            .query("p99", quantile(0.99, "", &of("sockline_round_trip_seconds_bucket"))),
            shared::bytes(of),
            shared::bytes_by_class(of),
            shared::opened_by_class(of),
            shared::not_translated(
                of,
                "Calls to Services that went through unchanged.",
                sum_of_rate(of, "sockline_connections_failed_open_total"),
            ),
        ],
    }
}

fn services() -> Row {
    let by = "namespace, service";
    let top = |expression: String| format!("topk(20, {expression})");
    let rate = |metric: &str| format!("sum by ({by}) (rate({}[5m]))", of(metric));
    Row {
        title: "Services",
        panels: vec![
            Panel::new(
                Table,
                PerSecond,
                "Services with the most connections",
                "Rates of the last five minutes.",
            )
            .query("opened", top(rate("sockline_connections_opened_total")))
            .query("failed", rate("sockline_connections_failed_total"))
            .query("refused", rate("sockline_connections_refused_total")),
            Panel::new(
                Table,
                PerSecond,
                "Services with the most failures",
                "Connections that were not established, in the last five minutes.",
            )
            .query(
                "failed",
                format!("topk(20, {} > 0)", rate("sockline_connections_failed_total")),
            ),
        ],
    }
}

fn agents() -> Row {
    Row {
        title: "Agents",
        panels: vec![
            Panel::new(
                Lines,
                Seconds,
                "Until a change is in the kernel",
                "From the arrival of a change at the agent to the end of its last map write, all nodes.",
            )
            .query(
                "p99",
                quantile(
                    0.99,
                    "",
                    "sockline_network_programming_duration_seconds_bucket{since=\"arrival\"}",
                ),
            ),
            Panel::new(
                Lines,
                Seconds,
                "Age of the last event",
                "Of the node for which it is highest. The API server sends one at least once a minute.",
            )
            .query(
                "{{kind}}",
                "max by (kind) (time() - sockline_watch_last_event_timestamp_seconds)",
            ),
            Panel::new(Areas, Count, "Versions", "Agents, by version.")
                .query("{{version}}", "count by (version) (sockline_build_info)"),
            Panel::new(
                Lines,
                PerSecond,
                "Errors",
                "Syncs that could not write everything, and failed requests to the API server.",
            )
            .query("syncs", "sum(rate(sockline_sync_errors_total[$__rate_interval]))")
            .query(
                "source: {{kind}}",
                "sum by (kind) (rate(sockline_source_errors_total[$__rate_interval]))",
            ),
        ],
    }
}
