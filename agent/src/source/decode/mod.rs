//! JSON to the model's objects. A value of the wrong type is reported with its field; it costs the list element that it is
//! in, or else the object, but not a whole file or list of objects.
//!
//! [`receive`] reads what an API server sends, straight into the Kubernetes type. Only an object with an error needs a tree
//! of values, which [`decode`] reads. `lenient.rs` deserializes, `validate.rs` checks fields, [`convert`] has a file for each
//! kind, and `limits.rs` limits the size of an object in a manifest.

pub mod convert;
mod lenient;
pub(super) mod limits;
mod validate;

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use self::convert::{Convert, SERVICE_LABEL};
use super::Sourced;
use crate::model::object::{InputError, Kind, ObjectName, ObjectRef, Subject, shorten};

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

/// An object of a known kind from its JSON; `None` if the agent does not use it (see [`Convert`]).
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

/// An object of the API server.
#[derive(Debug, PartialEq)]
pub struct Received {
    pub reference: ObjectRef,
    /// Opaque; empty when there is none.
    pub version: String,
    /// `None` if the agent does not use it.
    pub sourced: Option<Sourced>,
}

/// An object of a known kind from its text. The object has the errors of what cannot be decoded.
#[must_use]
pub fn receive(kind: Kind, text: &RawValue) -> Received {
    match kind {
        Kind::Service => receive_as::<Service>(text),
        Kind::EndpointSlice => receive_as::<EndpointSlice>(text),
        Kind::Node => receive_as::<Node>(text),
        Kind::Namespace => receive_as::<Namespace>(text),
        Kind::Pod => receive_as::<Pod>(text),
    }
}

fn receive_as<T: Convert + DeserializeOwned>(text: &RawValue) -> Received {
    if let Ok(object) = serde_json::from_str::<T>(text.get()) {
        let version = object.metadata().resource_version.clone().unwrap_or_default();
        return Received { reference: object.reference(), version, sourced: object.convert() };
    }
    let value: Value = match serde_json::from_str(text.get()) {
        Ok(value) => value,
        // Nested too deeply for a tree. Then only the name is read.
        Err(error) => return unreadable(T::KIND, text, &error),
    };
    let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    Received {
        reference: reference(T::KIND, &value),
        version: version.unwrap_or_default().to_owned(),
        sourced: decode_as::<T>(&value),
    }
}

fn unreadable(kind: Kind, text: &RawValue, error: &serde_json::Error) -> Received {
    let metadata = Metadata::of(text).unwrap_or_default();
    let reference = metadata.reference(kind);
    let input_error = InputError {
        object: (&reference).into(),
        field: String::new(),
        message: format!("{error}; the object is skipped"),
    };
    let sourced = unusable(reference.clone(), None, vec![input_error]);
    Received { reference, version: metadata.resource_version, sourced: Some(sourced) }
}

/// The metadata that identifies an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub namespace: String,
    pub name: String,
    /// Opaque.
    pub resource_version: String,
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Metadata {
    /// Reads it, and nothing else of the object.
    ///
    /// # Errors
    /// When `metadata` is missing, or a field of it has the wrong type.
    pub fn of(text: &RawValue) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        serde_json::from_str::<Object>(text.get()).map(|object| object.metadata)
    }

    #[must_use]
    pub fn reference(&self, kind: Kind) -> ObjectRef {
        let namespace = if kind.is_namespaced() { &*self.namespace } else { "" };
        ObjectRef { kind, name: ObjectName::new(namespace, &*self.name) }
    }
}

/// An object that is larger than what an API server accepts.
#[must_use]
pub fn too_large(kind: Kind, value: &Value) -> Sourced {
    let reference = reference(kind, value);
    let input_error = InputError {
        object: (&reference).into(),
        field: String::new(),
        message: "larger than an API server accepts; the object is skipped".to_owned(),
    };
    unusable(reference, Some(value), vec![input_error])
}

/// An object that cannot be used, except perhaps its label.
fn unusable(reference: ObjectRef, value: Option<&Value>, input_errors: Vec<InputError>) -> Sourced {
    let labels = value.and_then(|value| value.pointer("/metadata/labels"));
    let service = labels.and_then(|labels| labels.get(SERVICE_LABEL)?.as_str());
    let service = service.filter(|_| reference.kind == Kind::EndpointSlice).map(Into::into);
    Sourced { reference, object: None, service, input_errors }
}

fn decode_as<T: Convert + DeserializeOwned>(value: &Value) -> Option<Sourced> {
    let (object, input_errors) = lenient::deserialize::<T>(value);
    let mut sourced = match object {
        Some(object) => object.convert()?,
        None => {
            let reference = reference(T::KIND, value);
            unusable(reference, Some(value), Vec::new())
        }
    };
    // An element that was replaced is reported already; errors in its replacement mean nothing.
    let is_reported =
        |field: &str| input_errors.iter().any(|wrong| field.starts_with(&wrong.element));
    sourced.input_errors.retain(|input_error| !is_reported(&input_error.field));
    let object = Subject::from(&sourced.reference);
    let input_errors = input_errors.into_iter().map(|wrong| InputError {
        object: object.clone(),
        field: shorten(wrong.field),
        message: shorten(wrong.message),
    });
    sourced.input_errors.splice(..0, input_errors);
    Some(sourced)
}

/// Kind, namespace and name as far as they can be read; empty where not.
fn reference(kind: Kind, value: &Value) -> ObjectRef {
    let text = |field| value.get("metadata").and_then(|m| m.get(field)?.as_str()).unwrap_or("");
    let namespace = if kind.is_namespaced() { text("namespace") } else { "" };
    ObjectRef { kind, name: ObjectName::new(namespace, text("name")) }
}
