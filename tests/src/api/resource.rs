//! The resources that the stand-in has.

use serde_json::Value;

/// A kind of object, as URLs spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
    Namespaces,
    Pods,
}

impl Resource {
    pub const ALL: [Self; 5] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::Namespaces, Self::Pods];

    /// `apiVersion` and `kind` of its objects.
    pub const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
            Self::Namespaces => ("v1", "Namespace"),
            Self::Pods => ("v1", "Pod"),
        }
    }

    /// Where all objects of it are.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::Namespaces => "/api/v1/namespaces",
            Self::Pods => "/api/v1/pods",
        }
    }

    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Nodes | Self::Namespaces)
    }

    pub(super) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.path() == path)
    }

    /// The resource of an object.
    ///
    /// # Panics
    /// When the stand-in does not have its kind.
    pub fn of(object: &Value) -> Self {
        let kind = object["kind"].as_str().unwrap_or_default();
        match Self::ALL.into_iter().find(|resource| resource.kind().1 == kind) {
            Some(resource) => resource,
            None => panic!("the API stand-in has no {kind:?}: {object}"),
        }
    }
}
