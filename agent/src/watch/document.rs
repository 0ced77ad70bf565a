//! The documents of `sockline watch` and of the admin socket.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api,
    model::object::{ObjectName, Protocol},
    status::PodRef,
    workloads::WorkloadRef,
};

/// What happened to a connection, or to a flow of a UDP socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionEvent {
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub event: EventType,
    /// Who closed the connection, why it failed, or why the call was refused; absent if there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Why>,
    /// The protocol.
    pub protocol: Protocol,
    /// Who connected.
    pub client: Client,
    /// The Service; absent if it has been deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectName>,
    /// The name of the Service's port; empty if it has none.
    pub port_name: String,
    /// The address that was dialled; absent at the end of a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<Endpoint>,
    /// The endpoint that was chosen; absent if the call was refused, or if the endpoint had been removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// How the connection went; absent before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ConnectionEnd>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventType {
    /// An endpoint was chosen, and the connect proceeds.
    Opened,
    /// The connection ended.
    Closed,
    /// The connection was not established.
    Failed,
    /// The Service has no endpoint, so the call was refused.
    Refused,
    /// A flow continues, but its end is not observed.
    Untracked,
}

impl EventType {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Untracked => "untracked",
        }
    }
}

/// Why, or by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Closed: the client closed it first.
    Client,
    /// Closed: the server closed it first.
    Server,
    /// Closed: the client reset it.
    ClientReset,
    /// Closed: the server reset it.
    ServerReset,
    /// Closed: nothing answered any more.
    Lost,
    /// Closed: the programs do not read sockets.
    Unknown,
    /// Failed: the endpoint refused it.
    Refused,
    /// Failed: nothing answered.
    TimedOut,
    /// Failed: there is no way to the endpoint.
    Unreachable,
    /// Failed: the client closed the socket before there was an answer.
    GivenUp,
    /// Refused: the Service has no endpoint.
    NoEndpoints,
    /// Refused: the Service has no endpoint on this node, and its traffic policy is `Local`.
    NoLocalEndpoints,
    /// Opened: its end will not be seen.
    Untracked,
}

impl Why {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::ClientReset => "client-reset",
            Self::ServerReset => "server-reset",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Unreachable => "unreachable",
            Self::GivenUp => "given-up",
            Self::NoEndpoints => "no-endpoints",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::Untracked => "untracked",
        }
    }
}

/// Who connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// The pod; absent for processes of the node, for pods whose cgroup is gone, and with `--client-counts=false` at the
    /// end of a connection that was opened before anything watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// What it is a part of; absent for pods that the source does not have, and wherever the pod is absent for one of the
    /// last two reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// The process that made the call: that connected, or that closed the socket.
    pub process: Process,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The name of the thread that made the call, of up to 15 bytes.
    pub name: String,
    /// Its id on the node.
    pub pid: u32,
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip(), port: address.port() }
    }
}

/// How a connection went. Bytes, round-trip time and segments are those of TCP, and 0 or absent where the programs do
/// not read sockets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionEnd {
    /// Seconds from the connect to the end, in steps of a clock tick (1 to 10 ms).
    pub duration_seconds: f64,
    /// Bytes that the client wrote.
    pub sent_bytes: u64,
    /// Bytes that came from the endpoint.
    pub received_bytes: u64,
    /// The smoothed round-trip time at the end, in seconds; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_seconds: Option<f64>,
    /// TCP segments that the client's kernel sent again.
    pub retransmitted_segments: u32,
}

/// Which events a watcher wants; all of them by default. An agent that does not know a field refuses the filter: it
/// would send more events than the client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventFilter {
    /// Only those of this Service.
    #[serde(default)]
    pub service: Option<ObjectName>,
    /// Only those of connections of this pod.
    #[serde(default)]
    pub pod: Option<ObjectName>,
    /// Only connections that failed or were refused.
    #[serde(default)]
    pub failed: bool,
}

impl EventFilter {
    #[must_use]
    pub fn matches(&self, event: &ConnectionEvent) -> bool {
        let is_failure = matches!(event.event, EventType::Failed | EventType::Refused);
        let is_pod = |wanted: &ObjectName| {
            event.client.pod.as_ref().is_some_and(|pod| {
                pod.namespace.as_deref() == Some(&*wanted.namespace)
                    && pod.name.as_deref() == Some(&*wanted.name)
            })
        };
        (!self.failed || is_failure)
            && self.service.as_ref().is_none_or(|wanted| event.service.as_ref() == Some(wanted))
            && self.pod.as_ref().is_none_or(is_pod)
    }
}

/// Events that a watcher did not get, since it began; sent first, and whenever that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventLosses {
    /// The programs read how connections end.
    pub reads_sockets: bool,
    /// Events of all services: the agent did not read them in time.
    pub ring_full: u64,
    /// Events of all services: there were too many at once.
    pub sampled: u64,
    /// Events that this watcher wanted, and did not read in time.
    pub slow_reader: u64,
}

/// Sent last: the agent has ended the watch. It is missing if the connection did not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchEnd {
    pub reason: EndReason,
}

/// Why the agent has ended a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Nothing was read for [`READ_TIMEOUT`](super::READ_TIMEOUT).
    NotRead,
    /// The agent ends.
    AgentStopping,
    /// A reason of a later build.
    #[serde(other)]
    Other,
}

api::kinds! {
    ConnectionEvent = "ConnectionEvent",
    EventFilter = "EventFilter",
    EventLosses = "EventLosses",
    WatchEnd = "WatchEnd",
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api;

    pub fn event(event: EventType, service: &str, pod: Option<&str>) -> ConnectionEvent {
        let pod = pod.map(|name| PodRef::new(Some(&ObjectName::new("shop", name)), "uid"));
        ConnectionEvent {
            time: Timestamp::UNIX_EPOCH,
            event,
            reason: None,
            protocol: Protocol::Tcp,
            client: Client {
                pod,
                workload: None,
                process: Process { name: "curl".into(), pid: 7 },
            },
            service: Some(ObjectName::new("shop", service)),
            port_name: "http".into(),
            dialled: None,
            endpoint: None,
            end: None,
        }
    }

    #[test]
    fn a_filter_of_a_later_build_is_refused() {
        let text = r#"{"apiVersion": "sockline.dev/v1", "kind": "EventFilter", "node": "a"}"#;
        let error = api::read::<EventFilter>(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("unknown field `node`"), "{error}");
    }

    #[test]
    fn the_end_of_a_later_build_is_an_end() {
        for (reason, expected) in [
            ("not-read", EndReason::NotRead),
            ("agent-stopping", EndReason::AgentStopping),
            ("tired", EndReason::Other),
        ] {
            let text = format!(
                r#"{{"apiVersion": "sockline.dev/v1", "kind": "WatchEnd", "reason": "{reason}"}}"#
            );
            assert_eq!(api::read(text.as_bytes()).ok(), Some(WatchEnd { reason: expected }));
        }
    }

    #[test]
    fn a_filter_takes_what_fulfils_all_of_it() {
        let failed = event(EventType::Failed, "cart", Some("web"));
        let named = |name: &str| Some(ObjectName::new("shop", name));
        for (filter, expected) in [
            (EventFilter::default(), [true, true, true]),
            (EventFilter { failed: true, ..EventFilter::default() }, [true, false, true]),
            (EventFilter { service: named("cart"), ..EventFilter::default() }, [true, true, false]),
            (EventFilter { pod: named("web"), ..EventFilter::default() }, [true, false, false]),
            (
                EventFilter { service: named("cart"), pod: named("web"), failed: true },
                [true, false, false],
            ),
        ] {
            let events = [
                failed.clone(),
                event(EventType::Closed, "cart", Some("other")),
                event(EventType::Refused, "other", None),
            ];
            assert_eq!(
                events.each_ref().map(|event| filter.matches(event)),
                expected,
                "{filter:?}"
            );
        }
    }
}
