//! Namespace: whether its pods are left alone.

use k8s_openapi::api::core::v1 as api;

use super::{Convert, redirect};
use crate::source::decode::validate::Checker;
use crate::{
    model::object::{Namespace, Object},
    source::Sourced,
};

pub(super) fn convert(namespace: &api::Namespace) -> Option<Sourced> {
    let mut checker = Checker::new(namespace.reference());
    if !checker.names_are_valid() {
        return Some(checker.finish(None));
    }
    let redirect = redirect::of_clients(&mut checker, &namespace.metadata).unwrap_or_default();
    let name = checker.reference().name.name.clone();
    Some(checker.finish(Some(Object::Namespace(Namespace { name, redirect }))))
}
