//! What a family is: its name, type, labels and help.

use prometheus::proto::MetricType;

use crate::telemetry::labels::{Label, Labels};

/// A family, as it is defined.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: fn() -> Vec<Label>,
    /// One or more sentences without line breaks.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for other types.
    pub buckets: &'static [f64],
}

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

    pub(super) const fn to_proto(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

/// A type of family, for the table of definitions.
pub trait FamilyType {
    const KIND: MetricKind;
    type Labels: Labels;

    fn new(definition: Definition) -> Self;

    /// Writes the series that the family keeps, in the text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder refuses a metric.
    fn write_kept(&self, text: &mut String) -> prometheus::Result<()>;
}
