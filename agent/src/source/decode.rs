//! Parsed JSON to an object. A value of the wrong type costs that object and names the field,
//! instead of failing a whole file or list.

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Sourced, convert::Convert};
use crate::model::object::{Kind, ObjectName, ObjectRef, Problem};

/// The kind of an object, or `None` when Sockline does not read it.
///
/// The API group counts: Knative, for one, has Services of its own.
#[must_use]
pub fn kind_of(api_version: &str, kind: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|known| known.as_str() == kind && version_of(*known) == api_version)
}

/// The `apiVersion` in which a kind is read.
#[must_use]
pub const fn version_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Service | Kind::Node => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
    }
}

/// An object of a known kind from its JSON; `None` when it is not ours (see [`Convert`]).
#[must_use]
pub fn decode(kind: Kind, value: &Value) -> Option<Sourced> {
    match kind {
        Kind::Service => decode_as::<Service>(value),
        Kind::EndpointSlice => decode_as::<EndpointSlice>(value),
        Kind::Node => decode_as::<Node>(value),
    }
}

fn decode_as<T: Convert + DeserializeOwned>(value: &Value) -> Option<Sourced> {
    match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(object) => object.convert(),
        Err(error) => {
            let reference = reference(T::KIND, value);
            let path = error.path().to_string();
            let problem = Problem {
                object: reference.to_string(),
                field: if path == "." { String::new() } else { path },
                message: format!("{}; the object is left out", error.inner()),
            };
            Some(Sourced { reference, object: None, problems: vec![problem] })
        }
    }
}

/// Kind, namespace and name as far as they can be read; empty where not.
fn reference(kind: Kind, value: &Value) -> ObjectRef {
    let text = |field| value.get("metadata").and_then(|m| m.get(field)?.as_str()).unwrap_or("");
    let namespace = if kind == Kind::Node { "" } else { text("namespace") };
    ObjectRef { kind, name: ObjectName::new(namespace, text("name")) }
}
