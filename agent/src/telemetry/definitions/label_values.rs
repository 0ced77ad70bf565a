//! The values of labels that have a fixed set of them. The comment of a variant is its line in the documentation.

use sockline_ebpf::counters::Fault;

use crate::{
    dataplane::{Drift, DriftKind, FAULTS, FaultInfo, fault_name},
    model::{
        object::{Kind, Protocol},
        plan::TrafficClass,
    },
    telemetry::labels::{LabelValue, Value, label_values},
};

label_values! {
    pub enum RefusalReason {
        /// no endpoint is ready
        NoEndpoints = "no-endpoints",
        /// none on this node, and the traffic policy is `Local`
        NoLocalEndpoints = "no-local-endpoints",
    }

    pub enum How {
        /// the client closed it first, or both sides had closed it. Always this for UDP
        Client = "client",
        /// the server closed it first
        Server = "server",
        /// the client reset it: it closed with unread data, also after the server had ended, or with `SO_LINGER` of 0
        ClientReset = "client-reset",
        /// the server reset it, or the agent closed it (`sockline.dev/close-on-removal`)
        ServerReset = "server-reset",
        /// nothing answered any more
        Lost = "lost",
        /// it was not established, see `sockline_connections_failed_total`
        Failed = "failed",
        /// the programs do not read sockets (`--telemetry=off`, or the kernel does not let them), or had no room
        Unknown = "unknown",
    }

    pub enum FailureReason {
        /// the endpoint refused it; of UDP: an ICMP error said so, and the application had not read the error when it closed the socket
        Refused = "refused",
        /// nothing answered, or an error came after a SYN was sent again
        TimedOut = "timed-out",
        /// there is no way to the endpoint
        Unreachable = "unreachable",
        /// the client closed the socket before there was an answer
        GivenUp = "given-up",
    }

    pub enum BypassReason {
        /// the action of the address is `bypass`, the client's pod is excluded, or its network namespace is nested in a pod's
        Planned = "planned",
        /// the agent had been gone for `--fail-open-after`
        AgentGone = "agent-gone",
    }

    pub enum Since {
        /// the agent received it
        Arrival = "arrival",
        /// it was made in the cluster, where the object has the time (`endpoints.kubernetes.io/last-change-trigger-time`)
        Trigger = "trigger",
    }

    pub enum SyncScope {
        /// all services
        Full = "full",
        /// services that changed
        Changes = "changes",
        /// services that were out of sync
        Retry = "retry",
    }

    pub enum EventType {
        /// a list of all objects of the kind
        Replace = "replace",
        /// added or changed
        Apply = "apply",
        /// deleted
        Delete = "delete",
    }

    pub enum LossReason {
        /// the agent did not read the ring buffer in time
        RingFull = "ring-full",
        /// a CPU wrote 1,024 events within 67 ms; further ones are counted only
        Sampled = "sampled",
        /// a client did not read in time
        SlowReader = "slow-reader",
    }

    pub enum CloseReason {
        /// UDP: the endpoint was removed
        BackendGone = "backend-gone",
        /// TCP: the Service has the annotation `sockline.dev/close-on-removal`
        CloseOnRemoval = "close-on-removal",
    }
}

impl LabelValue for Kind {
    const VALUES: &'static [Value] = &[
        Value { name: "Service", meaning: "" },
        Value { name: "EndpointSlice", meaning: "" },
        Value { name: "Node", meaning: "" },
        Value { name: "Namespace", meaning: "" },
        Value { name: "Pod", meaning: "" },
    ];

    fn as_label(&self) -> &str {
        self.as_str()
    }
}

/// SCTP is not translated, so no series has it.
impl LabelValue for Protocol {
    const VALUES: &'static [Value] =
        &[Value { name: "TCP", meaning: "" }, Value { name: "UDP", meaning: "" }];

    fn as_label(&self) -> &str {
        self.as_str()
    }
}

impl LabelValue for TrafficClass {
    const VALUES: &'static [Value] = &[
        Value { name: TrafficClass::SameNode.as_str(), meaning: "the endpoint is on this node" },
        Value {
            name: TrafficClass::SameZone.as_str(),
            meaning: "it is on another node, in this node's zone",
        },
        Value { name: TrafficClass::OtherZone.as_str(), meaning: "it is in another zone" },
        Value {
            name: TrafficClass::Unknown.as_str(),
            meaning: "its EndpointSlice does not name its zone, or this node's Node has no label \
                      `topology.kubernetes.io/zone`",
        },
    ];

    fn as_label(&self) -> &str {
        self.as_str()
    }
}

impl LabelValue for Fault {
    const VALUES: &'static [Value] = &{
        let mut values = [Value { name: "", meaning: "" }; FAULTS.len()];
        let mut at = 0;
        while at < values.len() {
            let FaultInfo { name, meaning } = FAULTS[at];
            values[at] = Value { name, meaning };
            at += 1;
        }
        values
    };

    fn as_label(&self) -> &str {
        fault_name(*self)
    }
}

impl LabelValue for DriftKind {
    const VALUES: &'static [Value] = &{
        let mut values = [Value { name: "", meaning: "" }; Drift::KINDS.len()];
        let mut at = 0;
        while at < values.len() {
            values[at].name = Drift::KINDS[at].0.name();
            at += 1;
        }
        values
    };

    fn as_label(&self) -> &str {
        self.name()
    }
}
