//! Quantiles from the agent's histogram.

use std::time::Duration;

use sockline_testbed::Metrics;

use crate::term;

const NAME: &str = "sockline_network_programming_duration_seconds_bucket";

/// The histogram of the changes between two readings.
pub(super) struct Latency {
    /// Upper bounds in seconds, and the number of changes up to each.
    buckets: Vec<(f64, f64)>,
    count: f64,
}

impl Latency {
    pub(super) fn between(before: &Metrics, after: &Metrics, since: &str) -> Self {
        let upto = |bound: &str| {
            let labels = [("since", since), ("le", bound)];
            after.sum(NAME, &labels) - before.sum(NAME, &labels)
        };
        let mut buckets: Vec<(f64, f64)> = after
            .label_values(NAME, "le")
            .into_iter()
            .filter_map(|bound| Some((bound.parse().ok()?, upto(bound))))
            .filter(|(bound, _): &(f64, f64)| bound.is_finite())
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { buckets, count: upto("+Inf") }
    }

    pub(super) const fn count(&self) -> f64 {
        self.count
    }

    /// Interpolated within its bucket, as PromQL's `histogram_quantile` does.
    pub(super) fn quantile(&self, share: f64) -> String {
        let rank = share * self.count;
        let mut below = (0.0, 0.0);
        for &(bound, upto) in &self.buckets {
            if upto >= rank {
                let within = (rank - below.1) / (upto - below.1).max(1.0);
                let seconds = below.0 + (bound - below.0) * within;
                return term::seconds(Duration::from_secs_f64(seconds));
            }
            below = (bound, upto);
        }
        format!("over {}", term::seconds(Duration::from_secs_f64(below.0)))
    }
}
