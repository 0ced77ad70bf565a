//! Every label and annotation that Sockline reads.
//!
//! `deploy/docs/annotations.md` is written from this table (`cargo xtask docs`).

/// A label or annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    /// The kinds, and whether it is a label or an annotation; for people, as all below in Markdown.
    pub on: &'static str,
    pub values: &'static str,
    /// What it does.
    pub effect: &'static str,
}

pub const REDIRECT: Key = Key {
    name: "sockline.dev/redirect",
    on: "Pod, Namespace: label or annotation; Service: annotation",
    values: "`enabled`, `disabled`",
    effect: "`disabled` on a Pod: its connections are not translated. On a Namespace: those of all its \
             Pods that do not say `enabled`. On a Service: connections to it. If label and annotation \
             differ, `disabled` counts. Options of the agent override the value of a Pod.",
};

pub const CLOSE_ON_REMOVAL: Key = Key {
    name: "sockline.dev/close-on-removal",
    on: "Service: annotation",
    values: "a duration from `0s` to `24h`, as `30s`, `1m30s`, `1.5h`",
    effect: "TCP connections to an endpoint that was removed are closed after this time. Without it they \
             stay open.",
};

pub const PROXY_NAME: Key = Key {
    name: "service.kubernetes.io/service-proxy-name",
    on: "Service, EndpointSlice: label",
    values: "any",
    effect: "Another proxy serves the Service: Sockline ignores it.",
};

pub const HEADLESS: Key = Key {
    name: "service.kubernetes.io/headless",
    on: "Service, EndpointSlice: label",
    values: "any",
    effect: "Belongs to a headless Service: Sockline ignores it.",
};

pub const SERVICE_NAME: Key = Key {
    name: "kubernetes.io/service-name",
    on: "EndpointSlice: label",
    values: "the name of a Service",
    effect: "The Service of the endpoints. A slice without it is ignored.",
};

pub const TRIGGER_TIME: Key = Key {
    name: "endpoints.kubernetes.io/last-change-trigger-time",
    on: "EndpointSlice: annotation",
    values: "a time (RFC 3339)",
    effect: "When the change happened in the cluster, for the latency from its trigger to the kernel.",
};

pub const ZONE: Key = Key {
    name: "topology.kubernetes.io/zone",
    on: "Node: label",
    values: "the name of a zone",
    effect: "The node's zone, for topology hints and the class of traffic.",
};

pub const CONFIG_HASH: Key = Key {
    name: "kubernetes.io/config.hash",
    on: "Pod: annotation",
    values: "a UID",
    effect: "The UID that the kubelet runs a static pod under, which names its cgroup.",
};

pub const POD_TEMPLATE_HASH: Key = Key {
    name: "pod-template-hash",
    on: "Pod: label",
    values: "a hash",
    effect: "A ReplicaSet that owns the Pod and whose name ends with it belongs to the Deployment that has the rest of the name: \
             the client's workload in `sockline watch`.",
};

pub const ROLLOUTS_POD_TEMPLATE_HASH: Key = Key {
    name: "rollouts-pod-template-hash",
    on: "Pod: label",
    values: "a hash",
    effect: "The same for a Rollout of Argo Rollouts.",
};

pub const ALL: [&Key; 10] = [
    &REDIRECT,
    &CLOSE_ON_REMOVAL,
    &PROXY_NAME,
    &HEADLESS,
    &SERVICE_NAME,
    &TRIGGER_TIME,
    &ZONE,
    &CONFIG_HASH,
    &POD_TEMPLATE_HASH,
    &ROLLOUTS_POD_TEMPLATE_HASH,
];
