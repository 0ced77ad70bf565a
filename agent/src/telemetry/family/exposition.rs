//! Series in the text format of Prometheus.

use prometheus::{
    TextEncoder,
    proto::{self, MetricFamily},
};

use super::definition::Definition;
use crate::telemetry::labels::Labels;

pub(super) fn with_labels(mut metric: proto::Metric, labels: &impl Labels) -> proto::Metric {
    let mut pairs = Vec::new();
    labels.add_to(&mut pairs);
    metric.set_label(pairs);
    metric
}

pub(super) fn write(
    definition: &Definition,
    metrics: Vec<proto::Metric>,
    text: &mut String,
) -> prometheus::Result<()> {
    if metrics.is_empty() {
        // The encoder refuses an empty family.
        return Ok(());
    }
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(definition.kind.to_proto());
    family.set_metric(metrics);
    TextEncoder::new().encode_utf8(&[family], text)
}
