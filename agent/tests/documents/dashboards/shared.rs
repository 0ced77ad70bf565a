//! Panels that several dashboards have. `of` adds a dashboard's labels to a metric.

use super::grafana::{
    Kind::{Areas, Lines},
    Panel,
    Unit::{BytesPerSecond, PerSecond},
    rate,
};

type Of = fn(&str) -> String;

pub fn sum_of_rate(of: Of, metric: &str) -> String {
    format!("sum(rate({}[$__rate_interval]))", of(metric))
}

pub fn not_established(of: Of, description: &'static str) -> Panel {
    Panel::new(Lines, PerSecond, "Not established", description)
        .query("{{reason}}", rate("reason", &of("sockline_connections_failed_total")))
        .query("refused: {{reason}}", rate("reason", &of("sockline_connections_refused_total")))
}

pub fn ended(of: Of) -> Panel {
    Panel::new(Areas, PerSecond, "Ended", "How connections ended.")
        .query("{{how}}", rate("how", &of("sockline_connections_closed_total")))
}

pub fn bytes(of: Of) -> Panel {
    Panel::new(
        Lines,
        BytesPerSecond,
        "Bytes",
        "Of TCP connections, counted when they end, and about every 10 s while they are open.",
    )
    .query("sent by clients", sum_of_rate(of, "sockline_sent_bytes_total"))
    .query("received by clients", sum_of_rate(of, "sockline_received_bytes_total"))
}

pub fn opened_by_class(of: Of) -> Panel {
    Panel::new(
        Areas,
        PerSecond,
        "Opened, by traffic class",
        "Connections to endpoints on the client's node, in its zone, and in other zones.",
    )
    .query(
        "{{traffic_class}}",
        rate("traffic_class", &of("sockline_traffic_class_connections_opened_total")),
    )
}

pub fn bytes_by_class(of: Of) -> Panel {
    let both = ["sent", "received"].map(|direction| {
        rate("traffic_class", &of(&format!("sockline_traffic_class_{direction}_bytes_total")))
    });
    Panel::new(
        Areas,
        BytesPerSecond,
        "Bytes, by traffic class",
        "Both ways, of TCP connections, counted when they end, and about every 10 s while they are open. Most clouds bill what goes to other zones.",
    )
    .query("{{traffic_class}}", both.join(" + "))
}

/// `failed_open` is the rate of calls that failed open.
pub fn not_translated(of: Of, description: &'static str, failed_open: String) -> Panel {
    Panel::new(Lines, PerSecond, "Not translated", description)
        .query("{{reason}}", rate("reason", &of("sockline_connections_bypassed_total")))
        .query("failed open", failed_open)
}
