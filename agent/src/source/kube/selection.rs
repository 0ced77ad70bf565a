//! Which objects the server is asked for.

use ::kube::api::{ListParams, WatchParams};

use super::Kind;

/// The objects of one kind that a watch wants, and how it may ask for them.
///
/// Labels and headless services as in kube-proxy: a foreign `service-proxy-name` makes an object
/// another proxy's, and a headless service has nothing to translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) kind: Kind,
    labels: Option<&'static str>,
    /// `None` also after a server refused it: conversion then leaves out what was not wanted.
    pub(super) fields: Option<String>,
    /// Ask for the list as the beginning of the watch (KEP-3157; on by default since Kubernetes
    /// 1.34), so that neither side holds the whole list at once.
    pub(super) streaming: bool,
}

/// client-go's page size.
const PAGE: u32 = 500;

impl Selection {
    pub(super) fn services() -> Self {
        Self {
            kind: Kind::Service,
            labels: Some("!service.kubernetes.io/service-proxy-name"),
            // The kubelet asks the same way.
            fields: Some("spec.clusterIP!=None".into()),
            streaming: true,
        }
    }

    pub(super) fn endpoint_slices() -> Self {
        Self {
            kind: Kind::EndpointSlice,
            labels: Some(
                "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
            ),
            fields: None,
            streaming: true,
        }
    }

    pub(super) fn node(name: &str) -> Self {
        Self {
            kind: Kind::Node,
            labels: None,
            fields: Some(format!("metadata.name={name}")),
            streaming: true,
        }
    }

    pub(super) fn namespaces() -> Self {
        Self { kind: Kind::Namespace, labels: None, fields: None, streaming: true }
    }

    /// The pods of a node, as its kubelet asks for them.
    pub(super) fn pods(node: &str) -> Self {
        Self {
            kind: Kind::Pod,
            labels: None,
            fields: Some(format!("spec.nodeName={node}")),
            streaming: true,
        }
    }

    pub(super) fn list(&self, continue_token: Option<String>) -> ListParams {
        ListParams {
            label_selector: self.labels.map(Into::into),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            continue_token,
            ..ListParams::default()
        }
    }

    /// `initial`: begin with the present state.
    pub(super) fn watch(&self, initial: bool) -> WatchParams {
        WatchParams {
            label_selector: self.labels.map(Into::into),
            field_selector: self.fields.clone(),
            send_initial_events: initial,
            ..WatchParams::default()
        }
    }
}
