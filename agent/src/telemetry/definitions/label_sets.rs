//! The labels of families. The comment of a field is its line in the documentation.

use std::sync::Arc;

use sockline_ebpf::counters::Fault;

use super::label_values::{
    BypassReason, CloseReason, DriftKind, EventType, FailureReason, How, LossReason, RefusalReason,
    Since, SyncScope,
};
use crate::{
    model::object::{Kind, Protocol},
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

    pub struct FaultLabels {
        /// what happened
        fault: Fault,
    }

    pub struct MapLabels {
        /// as in `sockline status`
        map: Arc<str>,
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
