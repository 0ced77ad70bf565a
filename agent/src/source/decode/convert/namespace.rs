//! Namespace: whether its pods are excluded.

use k8s_openapi::api::core::v1 as api;

use super::{Convert, redirect};
use crate::source::decode::validate::Validator;
use crate::{
    model::object::{Namespace, Object},
    source::Sourced,
};

pub(super) fn convert(namespace: &api::Namespace) -> Option<Sourced> {
    let mut validator = Validator::new(namespace.reference());
    if !validator.names_are_valid() {
        return Some(validator.finish(None));
    }
    let redirect = redirect::of_clients(&mut validator, &namespace.metadata).unwrap_or_default();
    let name = validator.reference().name.name.clone();
    Some(validator.finish(Some(Object::Namespace(Namespace { name, redirect }))))
}
