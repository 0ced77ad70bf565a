//! Typed Kubernetes objects to the model's, one file for each kind. An invalid value is reported, and costs only itself.
//!
//! Which objects are used follows kube-proxy 1.36: the label selector of its informers (`cmd/kube-proxy/app/server.go`) and
//! `ShouldSkipService` (`pkg/proxy/util`). An API server has validated its objects; nobody has validated manifests.

pub mod annotations;
mod close_on_removal;
mod endpoint_slice;
mod namespace;
mod node;
mod pod;
mod redirect;
mod service;
mod workload;

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    model::object::{Kind, ObjectName, ObjectRef},
    source::Sourced,
};

/// Another proxy serves the object.
const PROXY_NAME_LABEL: &str = annotations::PROXY_NAME.name;
/// Names the service of an EndpointSlice.
pub(super) const SERVICE_LABEL: &str = annotations::SERVICE_NAME.name;
/// Marks objects of a headless Service, with any value.
const HEADLESS_LABEL: &str = annotations::HEADLESS.name;

/// A Kubernetes object that Sockline reads.
pub trait Convert {
    const KIND: Kind;

    fn metadata(&self) -> &ObjectMeta;

    /// The model's version of it, with the errors; `None` if the agent does not use it.
    fn convert(&self) -> Option<Sourced>;

    /// Kind, namespace and name.
    fn reference(&self) -> ObjectRef {
        let metadata = self.metadata();
        // A namespace on a cluster-scoped object means nothing (hand-written manifests have it).
        let namespace = metadata.namespace.as_deref().filter(|_| Self::KIND.is_namespaced());
        let namespace = namespace.unwrap_or("");
        let name = metadata.name.as_deref().unwrap_or("");
        ObjectRef { kind: Self::KIND, name: ObjectName::new(namespace, name) }
    }
}

impl Convert for Service {
    const KIND: Kind = Kind::Service;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(&self) -> Option<Sourced> {
        service::convert(self)
    }
}

impl Convert for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(&self) -> Option<Sourced> {
        endpoint_slice::convert(self)
    }
}

impl Convert for Node {
    const KIND: Kind = Kind::Node;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(&self) -> Option<Sourced> {
        node::convert(self)
    }
}

impl Convert for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(&self) -> Option<Sourced> {
        namespace::convert(self)
    }
}

impl Convert for Pod {
    const KIND: Kind = Kind::Pod;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(&self) -> Option<Sourced> {
        pod::convert(self)
    }
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// kube-proxy's informers do not receive these.
fn is_foreign(metadata: &ObjectMeta) -> bool {
    has_label(metadata, PROXY_NAME_LABEL) || has_label(metadata, HEADLESS_LABEL)
}

#[cfg(test)]
mod tests;
