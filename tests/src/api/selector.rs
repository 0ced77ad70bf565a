//! Label and field selectors, as far as agents use them.

use serde_json::Value;

use super::{Refusal, Resource, request::Asked};

/// Which objects a request is for. All requirements must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug)]
enum Requirement {
    HasLabel(String, bool),
    Label { key: String, value: String, equal: bool },
    Field { pointer: &'static str, value: String, equal: bool },
}

impl Selector {
    /// The selector of a request, or why it is invalid.
    pub(super) fn of(asked: &Asked, resource: Resource) -> Result<Self, Refusal> {
        let mut requirements = Vec::new();
        for text in asked.get("labelSelector").split(',').filter(|text| !text.is_empty()) {
            requirements.push(match comparison(text) {
                Some((key, value, equal)) => {
                    Requirement::Label { key: key.into(), value: value.into(), equal }
                }
                None => Requirement::HasLabel(
                    text.trim_start_matches('!').into(),
                    !text.starts_with('!'),
                ),
            });
        }
        for text in asked.get("fieldSelector").split(',').filter(|text| !text.is_empty()) {
            let known = comparison(text)
                .and_then(|(field, value, equal)| Some((pointer(resource, field)?, value, equal)));
            let Some((pointer, value, equal)) = known else {
                return Err(Refusal::no_field_selector(text, resource));
            };
            requirements.push(Requirement::Field { pointer, value: value.into(), equal });
        }
        Ok(Self(requirements))
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| match requirement {
            Requirement::HasLabel(key, wanted) => labels.get(key).is_some() == *wanted,
            Requirement::Label { key, value, equal } => {
                (labels.get(key).and_then(Value::as_str) == Some(value)) == *equal
            }
            // A field that is not set is empty.
            Requirement::Field { pointer, value, equal } => {
                let found = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                (found == value) == *equal
            }
        })
    }
}

fn comparison(text: &str) -> Option<(&str, &str, bool)> {
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key, value, false));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key, value, true))
}

/// The fields that the real server selects by.
fn pointer(resource: Resource, field: &str) -> Option<&'static str> {
    match (resource, field) {
        (_, "metadata.name") => Some("/metadata/name"),
        (_, "metadata.namespace") if resource.is_namespaced() => Some("/metadata/namespace"),
        (Resource::Services, "spec.clusterIP") => Some("/spec/clusterIP"),
        (Resource::Services, "spec.type") => Some("/spec/type"),
        (Resource::Pods, "spec.nodeName") => Some("/spec/nodeName"),
        (Resource::Pods | Resource::Namespaces, "status.phase") => Some("/status/phase"),
        _ => None,
    }
}
