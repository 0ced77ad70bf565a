//! The objects, and what is not in the kernel as they say.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{dataplane::ServiceKey, model::object::InputError};

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub endpoint_slices: usize,
    /// Endpoints in the EndpointSlices.
    pub endpoints: usize,
}

/// A field of an object that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvalidObject {
    /// The object for people: `Service shop/cart`, or `file web.yaml, document 3`.
    pub object: String,
    /// The path of the field in the object; absent if all of the object cannot be used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Why it cannot be used.
    pub message: String,
}

impl From<&InputError> for InvalidObject {
    fn from(error: &InputError) -> Self {
        let InputError { object, field, message } = error.clone();
        Self { object, field, message }
    }
}

impl fmt::Display for InvalidObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What can be out of sync: not in the kernel as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnsyncedObject {
    ServicePort(ServiceKey),
    /// What is left of a service port that is not known any more: a description.
    Unknown(String),
    /// NodePorts at the addresses of other nodes.
    OtherNodes,
}

impl fmt::Display for UnsyncedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServicePort(port) => port.fmt(f),
            Self::Unknown(what) => f.write_str(what),
            Self::OtherNodes => f.write_str("NodePorts at other nodes' addresses"),
        }
    }
}

/// Something that is not in the kernel as planned, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutOfSync {
    /// What it is, for people: `shop/cart:web/TCP`.
    pub object: String,
    /// The same for programs; absent if it is no service port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<ServicePort>,
    /// Why.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The name of the Service's port; empty if it has none.
    pub port_name: String,
    /// The protocol, as in the Service.
    pub protocol: String,
}

impl OutOfSync {
    #[must_use]
    pub fn new(object: &UnsyncedObject, message: &str) -> Self {
        let service_port = match object {
            UnsyncedObject::ServicePort(port) => Some(ServicePort {
                namespace: port.service.namespace.to_string(),
                name: port.service.name.to_string(),
                port_name: port.port_name.to_string(),
                protocol: port.protocol.to_string(),
            }),
            UnsyncedObject::Unknown(_) | UnsyncedObject::OtherNodes => None,
        };
        Self { object: object.to_string(), service_port, message: message.to_owned() }
    }
}

impl fmt::Display for OutOfSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// Service ports that differ from the objects, by what they are instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnconfirmedServicePorts {
    /// As the last agent left them, until the source can be read in full.
    pub from_last_agent: usize,
    /// As they were, because an object is invalid.
    pub retained: usize,
    /// Without some of their addresses, which retained ones keep.
    pub waiting_for_address: usize,
    /// Bypassed: they would be one of these, but the last agent had been gone for `--fail-open-after`.
    pub released: usize,
}

impl UnconfirmedServicePorts {
    /// `None` if there are none.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let parts = [
            (
                self.from_last_agent,
                "stay as the last agent left them until the source can be read in full",
            ),
            (self.retained, "stay as they were, because an object of theirs cannot be used"),
            (self.waiting_for_address, "lack an address that one of these keeps"),
            (self.released, "are bypassed until their objects can be read"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            parts.map(|(count, what)| format!("{count} service ports {what}")).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
