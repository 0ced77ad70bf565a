//! `sockline.dev/redirect`, the key by which pods, namespaces and services are excluded.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations;
use crate::model::object::Redirect;
use crate::source::decode::validate::Validator;

/// The label and annotation.
const KEY: &str = annotations::REDIRECT.name;

/// What the label or annotation of a pod or a namespace says about the connections of its processes. If the two differ,
/// disabled counts: one of them asked for it.
pub(super) fn of_clients(validator: &mut Validator, metadata: &ObjectMeta) -> Option<Redirect> {
    let label = parse(validator, "metadata.labels", metadata.labels.as_ref());
    let annotation = parse(validator, "metadata.annotations", metadata.annotations.as_ref());
    match (label, annotation) {
        (Some(Redirect::Disabled), _) | (_, Some(Redirect::Disabled)) => Some(Redirect::Disabled),
        (label, annotation) => label.or(annotation),
    }
}

/// What a Service's annotation says about connections to it. (A label would be copied to its EndpointSlices.)
pub(super) fn of_service(validator: &mut Validator, metadata: &ObjectMeta) -> Option<Redirect> {
    parse(validator, "metadata.annotations", metadata.annotations.as_ref())
}

fn parse(
    validator: &mut Validator,
    map: &str,
    values: Option<&BTreeMap<String, String>>,
) -> Option<Redirect> {
    let value = values?.get(KEY)?;
    match value.as_str() {
        "enabled" => Some(Redirect::Enabled),
        "disabled" => Some(Redirect::Disabled),
        other => {
            let message = format!("{other:?} is neither enabled nor disabled; it is ignored");
            validator.error(format!("{map}[{KEY}]"), message);
            None
        }
    }
}
