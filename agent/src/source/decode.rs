//! Parsed JSON to an object. A value of the wrong type is named with its field and costs the list
//! element it is in, or else the object, but never a whole file or list of objects.

mod repair;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
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
        Kind::Service | Kind::Node | Kind::Namespace | Kind::Pod => "v1",
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
        Kind::Namespace => decode_as::<Namespace>(value),
        Kind::Pod => decode_as::<Pod>(value),
    }
}

fn decode_as<T: Convert + DeserializeOwned>(value: &Value) -> Option<Sourced> {
    let (object, problems) = repair::deserialize::<T>(value);
    let mut sourced = match object {
        Some(object) => object.convert()?,
        None => {
            let reference = reference(T::KIND, value);
            Sourced { reference, object: None, problems: Vec::new() }
        }
    };
    // An element that was replaced has been told already; its replacement is nobody's problem.
    let told = |field: &str| problems.iter().any(|wrong| field.starts_with(&wrong.element));
    sourced.problems.retain(|problem| !told(&problem.field));
    let object = sourced.reference.to_string();
    let problems = problems.into_iter().map(|wrong| Problem {
        object: object.clone(),
        field: wrong.field,
        message: wrong.message,
    });
    sourced.problems.splice(..0, problems);
    Some(sourced)
}

/// Kind, namespace and name as far as they can be read; empty where not.
fn reference(kind: Kind, value: &Value) -> ObjectRef {
    let text = |field| value.get("metadata").and_then(|m| m.get(field)?.as_str()).unwrap_or("");
    let namespace = if kind.is_namespaced() { text("namespace") } else { "" };
    ObjectRef { kind, name: ObjectName::new(namespace, text("name")) }
}
