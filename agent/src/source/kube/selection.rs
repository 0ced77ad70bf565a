//! Which objects are requested.

use ::kube::api::{ListParams, WatchParams};

use super::Kind;
use crate::model::node_addresses::NodePortScope;

/// The objects of one kind that a watch requests.
///
/// The selectors are kube-proxy's: an object with a `service-proxy-name` belongs to another proxy, and a headless Service has
/// no address to translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) kind: Kind,
    labels: Option<&'static str>,
    /// `None` also after a server refused it. Then `decode::convert` filters.
    pub(super) fields: Option<String>,
}

/// Which objects depend on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched<'a> {
    /// The name of this node: its Node, and its Pods.
    pub node: &'a str,
    /// `AllNodes` requests all Nodes.
    pub node_ports: NodePortScope,
}

/// client-go's page size.
const PAGE: u32 = 500;

/// Which part of a list is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// All, of any version that the server has in memory (`resourceVersion=0`). Such a list has no pages.
    Cached,
    /// This many objects of the most recent version, from this token on.
    Part { token: Option<String>, limit: u32 },
}

impl Page {
    pub(super) const FIRST: Self = Self::Part { token: None, limit: PAGE };

    /// The next page.
    pub(super) const fn next(&self, token: String) -> Self {
        let limit = match self {
            Self::Cached => PAGE,
            Self::Part { limit, .. } => *limit,
        };
        Self::Part { token: Some(token), limit }
    }

    /// The same page with fewer objects; `None` if it has one.
    pub(super) fn smaller(&self) -> Option<Self> {
        match self {
            Self::Cached => Some(Self::FIRST),
            Self::Part { limit: ..=1, .. } => None,
            Self::Part { token, limit } => {
                Some(Self::Part { token: token.clone(), limit: limit / 2 })
            }
        }
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchFrom<'a> {
    /// With all objects of the most recent state.
    InitialEvents,
    /// Behind this resource version.
    Version(&'a str),
}

impl Selection {
    /// The objects of a kind.
    pub(super) fn of(kind: Kind, Watched { node, node_ports }: Watched<'_>) -> Self {
        match kind {
            Kind::Service => Self::services(),
            Kind::EndpointSlice => Self::endpoint_slices(),
            Kind::Node if node_ports == NodePortScope::AllNodes => Self::nodes(),
            Kind::Node => Self::node(node),
            Kind::Namespace => Self::namespaces(),
            Kind::Pod => Self::pods(node),
        }
    }

    pub(super) fn services() -> Self {
        Self {
            kind: Kind::Service,
            labels: Some("!service.kubernetes.io/service-proxy-name"),
            // As the kubelet does.
            fields: Some("spec.clusterIP!=None".into()),
        }
    }

    pub(super) fn endpoint_slices() -> Self {
        Self {
            kind: Kind::EndpointSlice,
            labels: Some(
                "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
            ),
            fields: None,
        }
    }

    pub(super) fn node(name: &str) -> Self {
        Self { kind: Kind::Node, labels: None, fields: Some(format!("metadata.name={name}")) }
    }

    /// All Nodes, for their addresses.
    pub(super) fn nodes() -> Self {
        Self { kind: Kind::Node, labels: None, fields: None }
    }

    pub(super) fn namespaces() -> Self {
        Self { kind: Kind::Namespace, labels: None, fields: None }
    }

    /// The pods of a node, as its kubelet requests them.
    pub(super) fn pods(node: &str) -> Self {
        Self { kind: Kind::Pod, labels: None, fields: Some(format!("spec.nodeName={node}")) }
    }

    pub(super) fn list(&self, page: &Page) -> ListParams {
        let parameters = ListParams {
            label_selector: self.labels.map(Into::into),
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        match page {
            Page::Cached => ListParams { resource_version: Some("0".into()), ..parameters },
            Page::Part { token, limit } => {
                ListParams { limit: Some(*limit), continue_token: token.clone(), ..parameters }
            }
        }
    }

    pub(super) fn watch(&self, from: WatchFrom<'_>) -> WatchParams {
        WatchParams {
            label_selector: self.labels.map(Into::into),
            field_selector: self.fields.clone(),
            send_initial_events: from == WatchFrom::InitialEvents,
            ..WatchParams::default()
        }
    }
}
