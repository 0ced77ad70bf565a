//! Node: its zone and its addresses.

use k8s_openapi::api::core::v1 as api;

use super::{Convert, annotations};
use crate::source::decode::validate::Validator;
use crate::{
    model::limits,
    model::object::{Node, Object},
    source::Sourced,
};

const ZONE_LABEL: &str = annotations::ZONE.name;

pub(super) fn convert(node: &api::Node) -> Option<Sourced> {
    let mut validator = Validator::new(node.reference());
    if !validator.names_are_valid() {
        return Some(validator.finish(None));
    }
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or(&[]);
    let all = validator.first_of("status.addresses", all, limits::NODE_ADDRESSES);
    let mut addresses = Vec::new();
    // The others are host names.
    for kind in ["InternalIP", "ExternalIP"] {
        for (i, address) in all.iter().enumerate().filter(|(_, address)| address.type_ == kind) {
            let field = format!("status.addresses[{i}].address");
            addresses.extend(validator.address(&field, &address.address, None));
        }
    }
    let name = validator.reference().name.name.clone();
    let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into());
    Some(validator.finish(Some(Object::Node(Node { name, zone, addresses }))))
}
