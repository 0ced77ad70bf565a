//! The series with Istio's names and labels (<https://istio.io/latest/docs/reference/config/metrics/>), for dashboards
//! and tools that know those.
//!
//! Istio counts bytes from the proxy's side: received are those of the client's requests, sent those of the answers. A
//! node does not know more of the server than its Service. Connections that were not established are closed with the
//! flag `UF`, as Envoy's.

use std::sync::Arc;

use super::series::{IstioSeries, Series, Sums, UNKNOWN};
use crate::telemetry::definitions::{Families, IstioLabels};

/// Nothing to say of a connection.
const NO_FLAGS: &str = "-";
/// Envoy's `UpstreamConnectionFailure`.
const NOT_ESTABLISHED: &str = "UF";

pub fn write(families: &Families, series: &Series, text: &mut String) {
    let of = |value: fn(&Sums) -> u64| {
        series.istio().map(move |(of, sums)| (labels(of, NO_FLAGS), value(sums) as f64))
    };
    families.istio_connections_opened.write(of(|sums| sums.counted.opened), text);
    let not_established = series.istio().filter(|(_, sums)| sums.counted.failed > 0);
    let failed =
        not_established.map(|(of, sums)| (labels(of, NOT_ESTABLISHED), sums.counted.failed as f64));
    let closed = of(|sums| sums.counted.established).chain(failed);
    families.istio_connections_closed.write(closed, text);
    families.istio_sent_bytes.write(of(|sums| sums.counted.received), text);
    families.istio_received_bytes.write(of(|sums| sums.counted.sent), text);
}

fn labels(of: &IstioSeries, response_flags: &'static str) -> IstioLabels {
    let known = |text: &Arc<str>| if text.is_empty() { UNKNOWN.into() } else { Arc::clone(text) };
    let host = format!("{}.{}.svc.cluster.local", of.service, of.namespace);
    IstioLabels {
        reporter: "source",
        source_workload: Arc::clone(&of.source_workload),
        source_workload_namespace: known(&of.source_workload_namespace),
        source_principal: UNKNOWN,
        source_app: UNKNOWN,
        source_version: UNKNOWN,
        source_cluster: UNKNOWN,
        source_canonical_service: UNKNOWN,
        source_canonical_revision: UNKNOWN,
        destination_workload: UNKNOWN,
        destination_workload_namespace: UNKNOWN,
        destination_principal: UNKNOWN,
        destination_app: UNKNOWN,
        destination_version: UNKNOWN,
        destination_cluster: UNKNOWN,
        destination_canonical_service: UNKNOWN,
        destination_canonical_revision: UNKNOWN,
        destination_service: host.into(),
        destination_service_name: Arc::clone(&of.service),
        destination_service_namespace: Arc::clone(&of.namespace),
        request_protocol: "tcp",
        response_flags,
        connection_security_policy: UNKNOWN,
    }
}
