//! One Service, as all nodes see it.

use super::{
    grafana::{
        Choice, Dashboard,
        Kind::{Areas, Heatmap, Lines, Number},
        Panel, Row,
        Unit::{Count, PerSecond, Seconds, Share},
        Variable, quantile, rate,
    },
    shared,
};

fn of(metric: &str) -> String {
    format!("{metric}{{namespace=\"$namespace\", service=\"$service\"}}")
}

fn sum_of_rate(metric: &str) -> String {
    shared::sum_of_rate(of, metric)
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "sockline-service",
        title: "Sockline / Service",
        description: "The connections to one Service.",
        variables: vec![
            Variable {
                name: "namespace",
                label: "Namespace",
                series: "sockline_connections_opened_total",
                choice: Choice::One,
            },
            Variable {
                name: "service",
                label: "Service",
                series: "sockline_connections_opened_total{namespace=\"$namespace\"}",
                choice: Choice::One,
            },
        ],
        rows: vec![now(), connections(), times(), traffic()],
    }
}

fn now() -> Row {
    let share = |part: &str, of_what: &str| {
        format!("{} / ({} > 0)", sum_of_rate(part), sum_of_rate(of_what))
    };
    Row {
        title: "Now",
        panels: vec![
            Panel::new(Number, PerSecond, "Opened", "Connections that got a backend.")
                .query("opened", sum_of_rate("sockline_connections_opened_total")),
            Panel::new(Number, Count, "Active", "Connections that are open.")
                .query("active", format!("sum({})", of("sockline_connections_active"))),
            Panel::new(
                Number,
                Share,
                "Not established",
                "Share of the connections that ended without having been established.",
            )
            .query(
                "failed",
                share("sockline_connections_failed_total", "sockline_connections_closed_total"),
            ),
            Panel::new(
                Number,
                Share,
                "Never answered",
                "Share of the connections on which the client sent something and received nothing.",
            )
            .query(
                "unanswered",
                share("sockline_connections_unanswered_total", "sockline_connections_closed_total"),
            ),
            Panel::new(Number, Seconds, "Round-trip time, p50", "Of connections that ended.")
                .query("p50", quantile(0.5, "", &of("sockline_round_trip_seconds_bucket"))),
            Panel::new(Number, Seconds, "Lifetime, p50", "Of connections that ended.").query(
                "p50",
                quantile(0.5, "", &of("sockline_connection_lifetime_seconds_bucket")),
            ),
        ],
    }
}

fn connections() -> Row {
    Row {
        title: "Connections",
        panels: vec![
            Panel::new(Areas, PerSecond, "Opened, by port", "Connections that got a backend.")
                .query(
                    "{{port}}/{{protocol}}",
                    rate("port, protocol", &of("sockline_connections_opened_total")),
                ),
            Panel::new(Areas, Count, "Active, by node", "Connections that are open.").query(
                "{{instance}}",
                format!("sum by (instance) ({})", of("sockline_connections_active")),
            ),
            shared::not_established(
                of,
                "Connections that failed, and calls that were refused because there is no endpoint.",
            )
            .width(8),
            Panel::new(
                Areas,
                Count,
                "Hanging connects, by node",
                "Connections that are being opened and whose SYN had no answer for a second.",
            )
            .width(8)
            .query(
                "{{instance}}",
                format!("sum by (instance) ({})", of("sockline_connections_hanging")),
            ),
            shared::ended(of).width(8),
            shared::not_translated(
                of,
                "Calls to the Service that went through unchanged.",
                sum_of_rate("sockline_connections_failed_open_total"),
            ),
            Panel::new(
                Lines,
                PerSecond,
                "Untracked",
                "Connections whose end is not seen, so that only their begin is counted.",
            )
            .query("untracked", sum_of_rate("sockline_connections_untracked_total")),
        ],
    }
}

fn times() -> Row {
    let round_trip = of("sockline_round_trip_seconds_bucket");
    let lifetime = of("sockline_connection_lifetime_seconds_bucket");
    Row {
        title: "Times",
        panels: vec![
            Panel::new(
                Lines,
                Seconds,
                "Round-trip time",
                "As the client's kernel had it when the connection ended.",
            )
            .query("p50", quantile(0.5, "", &round_trip))
            .query("p90", quantile(0.9, "", &round_trip))
            .query("p99", quantile(0.99, "", &round_trip)),
            Panel::new(Heatmap, Seconds, "Round-trip times", "Connections in each bucket.")
                .query("{{le}}", rate("le", &round_trip)),
            Panel::new(
                Lines,
                Seconds,
                "Lifetime",
                "From connect() to the end of connections that were established.",
            )
            .query("p50", quantile(0.5, "", &lifetime))
            .query("p90", quantile(0.9, "", &lifetime))
            .query("p99", quantile(0.99, "", &lifetime)),
            Panel::new(Heatmap, Seconds, "Lifetimes", "Connections in each bucket.")
                .query("{{le}}", rate("le", &lifetime)),
        ],
    }
}

fn traffic() -> Row {
    Row {
        title: "Traffic",
        panels: vec![
            shared::bytes(of),
            shared::bytes_by_class(of),
            shared::opened_by_class(of),
            Panel::new(
                Lines,
                PerSecond,
                "Retransmitted segments",
                "TCP segments that clients sent again.",
            )
            .query("segments", sum_of_rate("sockline_retransmitted_segments_total")),
        ],
    }
}
