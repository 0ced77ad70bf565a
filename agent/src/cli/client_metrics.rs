//! The options of `sockline agent` for metrics of client workloads.

use clap::{Args, builder::BoolishValueParser};

use crate::telemetry::{ClientFamilies, Dialect, SourceWorkloads};

/// Which metrics of client workloads there are.
#[derive(Debug, Args)]
pub struct ClientMetricsArgs {
    /// Metrics of connections by client workload: the Deployment or other owner of the client's pod, or its service
    /// of systemd. At most 1,000 pairs of workload and service port have series of their own; the others count as
    /// the workload `other`. Needs `--client-counts=true` and `--telemetry=on`
    #[arg(long, env = "SOCKLINE_METRICS_SOURCE_WORKLOAD", value_parser = BoolishValueParser::new())]
    metrics_source_workload: bool,
    /// Names of the metrics of connections; `istio` adds Istio's TCP metrics by client workload, within the same
    /// limit
    #[arg(
        long,
        value_enum,
        value_name = "DIALECT",
        env = "SOCKLINE_METRICS_DIALECT",
        default_value_t
    )]
    metrics_dialect: Dialect,
}

impl From<ClientMetricsArgs> for ClientFamilies {
    fn from(args: ClientMetricsArgs) -> Self {
        let source_workloads = if args.metrics_source_workload {
            SourceWorkloads::Shown
        } else {
            SourceWorkloads::Omitted
        };
        Self { source_workloads, dialect: args.metrics_dialect }
    }
}
