//! Commands from the admin socket to the control loop, which is the only writer of the maps.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    dataplane::Drift,
    model::{
        explain::Explanation,
        object::ObjectName,
        probe_service::{Listeners, ProbeService},
    },
    workloads::PodQuery,
};

/// Which service to explain. A field that this build does not know might restrict it, so there must be none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub service: ObjectName,
    /// The name or a number of one of its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Which pod to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSubject {
    pub pod: ObjectName,
}

/// What the kernel programs are to log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramLogRequest {
    /// Names of hooks.
    pub hooks: Vec<String>,
    /// The only service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectName>,
    /// The name or a number of its only port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// For how long.
    pub seconds: u64,
}

/// What the source has of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLookup {
    pub on_this_node: bool,
}

/// A command. The reply is a result or the reason for a refusal.
#[derive(Debug)]
pub enum Command {
    /// Adds a probe service to the maps, until it is removed. If the client no longer waits for the reply,
    /// the service is removed at once.
    AddProbeService {
        listeners: Listeners,
        reply: oneshot::Sender<Result<ProbeService, String>>,
    },
    RemoveProbeService(ProbeService),
    /// Names the pods of this node.
    FindPods(PodQuery),
    /// Looks up whether a pod is on this node.
    LookUpPod {
        pod: ObjectName,
        reply: oneshot::Sender<Result<PodLookup, String>>,
    },
    /// Compares the plan with the maps, and changes nothing.
    FindDrift {
        reply: oneshot::Sender<Result<Drift, String>>,
    },
    /// Has the programs log what they decide; `None` ends it.
    LogPrograms {
        request: Option<ProgramLogRequest>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Explains how a service is served.
    Explain {
        subject: Subject,
        reply: oneshot::Sender<Result<Explanation, String>>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_field_that_this_build_does_not_know_is_refused() {
        let read = |text: &str| serde_json::from_str::<Subject>(text).map_err(|e| e.to_string());
        let service = r#""service": {"namespace": "shop", "name": "cart"}"#;
        assert!(read(&format!("{{{service}}}")).is_ok());
        assert!(read(&format!("{{{service}, \"port\": \"web\"}}")).is_ok());
        let error = read(&format!("{{{service}, \"family\": \"IPv6\"}}")).unwrap_err();
        assert!(error.contains("unknown field `family`"), "{error}");
    }
}
