//! The labels of families. The comment of a field is its line in the documentation.

use std::sync::Arc;

use sockline_ebpf::counters::Fault;

use super::label_values::{
    BypassReason, CloseReason, EventType, FailureReason, How, LossReason, RefusalReason, Since,
    SyncScope,
};
use crate::{
    dataplane::DriftKind,
    model::{
        object::{Kind, Protocol},
        plan::TrafficClass,
    },
    telemetry::labels::labels,
};

labels! {
    pub struct RefusalLabels {
        /// why the Service has no endpoint
        reason: RefusalReason,
    }

    pub struct EndLabels {
        /// who ended it
        how: How,
    }

    pub struct FailureLabels {
        /// why it was not established
        reason: FailureReason,
    }

    pub struct ClassLabels {
        /// how far traffic goes from this node to the endpoint
        traffic_class: TrafficClass,
    }

    pub struct BypassLabels {
        /// why the call is not translated
        reason: BypassReason,
    }

    pub struct ServicePortLabels {
        /// of the Service
        namespace: Arc<str>,
        /// name of the Service
        service: Arc<str>,
        /// name of the service port; absent if it has none
        port: Arc<str>,
        /// of the service port
        protocol: Protocol,
    }

    pub struct SourceLabels {
        /// of the client's pod; absent for processes of the node
        source_workload_namespace: Arc<str>,
        /// `Deployment` or another kind that owns pods, `Pod`, `SystemdService`, `Node`; `unknown` and `other` as the name
        source_workload_kind: Arc<str>,
        /// name of the client's workload; `none` of pods without one, `unknown` if not known, `other` beyond 1,000 pairs with a service port
        source_workload: Arc<str>,
    }

    pub struct IstioLabels {
        /// always `source`
        reporter: &'static str,
        /// name of the client's workload, as in Sockline's own metrics
        source_workload: Arc<str>,
        /// of the client's pod; `unknown` for processes of the node
        source_workload_namespace: Arc<str>,
        /// always `unknown`
        source_principal: &'static str,
        /// always `unknown`
        source_app: &'static str,
        /// always `unknown`
        source_version: &'static str,
        /// always `unknown`
        source_cluster: &'static str,
        /// always `unknown`
        source_canonical_service: &'static str,
        /// always `unknown`
        source_canonical_revision: &'static str,
        /// always `unknown`
        destination_workload: &'static str,
        /// always `unknown`
        destination_workload_namespace: &'static str,
        /// always `unknown`
        destination_principal: &'static str,
        /// always `unknown`
        destination_app: &'static str,
        /// always `unknown`
        destination_version: &'static str,
        /// always `unknown`
        destination_cluster: &'static str,
        /// always `unknown`
        destination_canonical_service: &'static str,
        /// always `unknown`
        destination_canonical_revision: &'static str,
        /// host name of the Service, in the domain `cluster.local`
        destination_service: Arc<str>,
        /// name of the Service
        destination_service_name: Arc<str>,
        /// of the Service
        destination_service_namespace: Arc<str>,
        /// always `tcp`
        request_protocol: &'static str,
        /// `UF` of connections that were not established, `-` of the others
        response_flags: &'static str,
        /// always `unknown`, as in all of Istio's reports of the client's side
        connection_security_policy: &'static str,
    }

    pub struct FaultLabels {
        /// what happened
        fault: Fault,
    }

    pub struct MapLabels {
        /// as in `sockline status`
        map: Arc<str>,
    }

    pub struct ProgramLabels {
        /// hook of the program, such as `connect4`
        program: &'static str,
    }

    pub struct ProgrammingLabels {
        /// where the time starts
        since: Since,
    }

    pub struct SyncLabels {
        /// which services
        scope: SyncScope,
    }

    pub struct EventLabels {
        /// of the object
        kind: Kind,
        /// what happened to it
        event: EventType,
    }

    pub struct KindLabels {
        /// of the object
        kind: Kind,
    }

    pub struct ClosedLabels {
        /// of the socket
        protocol: Protocol,
        /// why it was closed
        reason: CloseReason,
    }

    pub struct DriftLabels {
        /// what was repaired
        object: DriftKind,
    }

    pub struct LossLabels {
        /// why it was lost
        reason: LossReason,
    }

    pub struct BuildLabels {
        /// of the agent
        version: &'static str,
    }
}
