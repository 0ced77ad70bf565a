//! The objects, and what is not in the kernel as they say.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    dataplane::ServiceKey,
    model::object::{InputError, ObjectRef},
};

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
    /// The same for programs; absent if it is no object, or its name is too long for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ObjectReference>,
    /// The path of the field in the object; absent if all of the object cannot be used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Why it cannot be used.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectReference {
    /// The kind: Service, EndpointSlice, Node, Namespace or Pod.
    pub kind: String,
    /// The object's namespace; absent if objects of its kind are in none, or its own is missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The object's name; empty if that is missing.
    pub name: String,
}

impl From<&ObjectRef> for ObjectReference {
    fn from(ObjectRef { kind, name }: &ObjectRef) -> Self {
        Self {
            kind: kind.to_string(),
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
        }
    }
}

impl From<&InputError> for InvalidObject {
    fn from(InputError { object, field, message }: &InputError) -> Self {
        Self {
            object: object.to_string(),
            reference: object.reference().map(ObjectReference::from),
            field: field.clone(),
            message: message.clone(),
        }
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
    /// How much is out of sync; absent from an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<OutOfSyncScope>,
    /// The service port for programs; absent if it is none, or not known which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<ServicePort>,
    /// Why.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutOfSyncScope {
    /// One service port.
    ServicePort,
    /// What is left of a service port that is not known any more.
    UnknownServicePort,
    /// The NodePorts at the addresses of other nodes.
    OtherNodes,
    /// All services: the last sync failed as a whole.
    AllServices,
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

impl From<&ServiceKey> for ServicePort {
    fn from(port: &ServiceKey) -> Self {
        Self {
            namespace: port.service.namespace.to_string(),
            name: port.service.name.to_string(),
            port_name: port.port_name.to_string(),
            protocol: port.protocol.to_string(),
        }
    }
}

impl OutOfSync {
    #[must_use]
    pub fn new(object: &UnsyncedObject, message: &str) -> Self {
        let (scope, service_port) = match object {
            UnsyncedObject::ServicePort(port) => {
                (OutOfSyncScope::ServicePort, Some(ServicePort::from(port)))
            }
            UnsyncedObject::Unknown(_) => (OutOfSyncScope::UnknownServicePort, None),
            UnsyncedObject::OtherNodes => (OutOfSyncScope::OtherNodes, None),
        };
        Self {
            object: object.to_string(),
            scope: Some(scope),
            service_port,
            message: message.to_owned(),
        }
    }

    /// A sync that failed as a whole.
    #[must_use]
    pub fn all_services(message: String) -> Self {
        Self {
            object: "all services".into(),
            scope: Some(OutOfSyncScope::AllServices),
            service_port: None,
            message,
        }
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

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;
    use crate::model::object::{Kind, ObjectName, Protocol, Subject};

    #[test]
    fn an_invalid_object_is_named_for_people_and_for_programs() {
        let invalid = |object: Subject| {
            let error = InputError { object, field: String::new(), message: "x".to_owned() };
            to_value(InvalidObject::from(&error)).expect("a value")
        };
        assert_eq!(
            invalid(Subject::of(Kind::Service, &ObjectName::new("shop", "cart"))),
            json!({
                "object": "Service shop/cart",
                "reference": {"kind": "Service", "namespace": "shop", "name": "cart"},
                "message": "x",
            })
        );
        assert_eq!(
            invalid(Subject::of(Kind::Node, &ObjectName::new("", "node-a")))["reference"],
            json!({"kind": "Node", "name": "node-a"})
        );
        let file = invalid("file web.yaml".to_owned().into());
        assert_eq!(file, json!({"object": "file web.yaml", "message": "x"}));
    }

    #[test]
    fn what_is_out_of_sync_is_named_for_people_and_for_programs() {
        let port = ServiceKey {
            service: ObjectName::new("shop", "cart"),
            port_name: "web".into(),
            protocol: Protocol::Tcp,
        };
        let unsynced = OutOfSync::new(&UnsyncedObject::ServicePort(port), "x");
        assert_eq!(
            to_value(unsynced).expect("a value"),
            json!({
                "object": "shop/cart:web/TCP",
                "scope": "service-port",
                "servicePort":
                    {"namespace": "shop", "name": "cart", "portName": "web", "protocol": "TCP"},
                "message": "x",
            })
        );
        let all = to_value(OutOfSync::all_services("x".to_owned())).expect("a value");
        assert_eq!(all, json!({"object": "all services", "scope": "all-services", "message": "x"}));
    }
}
