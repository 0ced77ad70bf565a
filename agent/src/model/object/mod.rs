//! The Kubernetes objects Sockline plans from, cut down to the fields it reads: a file for each kind.
//!
//! `source` makes these from manifests or from the API server and reports fields and objects that it cannot use as
//! [`InputError`]s; `index` and `planner` plan from them. `reference.rs` names objects, `protocol.rs` and `redirect.rs`
//! have the values that several kinds share.
//!
//! Invariant: a value that exists here is valid. Ports are 1 to 65535, addresses are of the family that holds them.

mod endpoint_slice;
mod input_error;
mod namespace;
mod node;
mod pod;
mod protocol;
mod redirect;
mod reference;
mod service;
mod workload;

pub use self::{
    endpoint_slice::{Endpoint, EndpointPort, EndpointSlice, Hints},
    input_error::{InputError, Subject, shorten},
    namespace::Namespace,
    node::Node,
    pod::{Pod, PodPhase},
    protocol::{Family, Protocol},
    redirect::Redirect,
    reference::{Kind, ObjectName, ObjectRef},
    service::{Service, ServicePort, TrafficPolicy},
    workload::Workload,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
}

impl Object {
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Service(o) => ObjectRef { kind: Kind::Service, name: o.name.clone() },
            Self::EndpointSlice(o) => ObjectRef { kind: Kind::EndpointSlice, name: o.name.clone() },
            Self::Node(o) => {
                ObjectRef { kind: Kind::Node, name: ObjectName::new("", o.name.clone()) }
            }
            Self::Namespace(o) => {
                ObjectRef { kind: Kind::Namespace, name: ObjectName::new("", o.name.clone()) }
            }
            Self::Pod(o) => ObjectRef { kind: Kind::Pod, name: o.name.clone() },
        }
    }
}
