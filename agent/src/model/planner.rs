//! The whole plan from all objects at once: a pure function.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    conflict::{Claims, Conflicts},
    endpoints::ThisNode,
    frontends::{service_frontends, too_large},
    object::{EndpointSlice, InputError, Kind, Node, ObjectName, Service, Subject},
    plan::{Frontend, Plan},
};

/// The plan of node `node_name`, and the errors of the objects.
///
/// The order of the objects does not matter. [`super::index::Index`] gives the same plan from a
/// stream of changes.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    nodes: impl IntoIterator<Item = &'a Node>,
    node_name: &str,
) -> (Plan, Vec<InputError>) {
    let node = nodes.into_iter().find(|node| *node.name == *node_name);
    let here = ThisNode { name: node_name, zone: node.and_then(|node| node.zone.as_deref()) };

    let mut slices_of: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        slices_of.entry((&slice.name.namespace, &slice.service)).or_default().push(slice);
    }
    for slices in slices_of.values_mut() {
        slices.sort_by_key(|slice| &slice.name);
    }

    let planned: BTreeMap<&ObjectName, (&Service, Vec<Arc<Frontend>>)> = services
        .into_iter()
        .map(|service| {
            let slices = slices_of.get(&(&*service.name.namespace, &*service.name.name));
            let slices = slices.map_or(&[][..], |slices| &slices[..]).iter().copied();
            let frontends = service_frontends(service, slices, here, None);
            (&service.name, (service, frontends.into_iter().map(Arc::new).collect()))
        })
        .collect();

    let mut conflicts = Conflicts::default();
    for (service, frontends) in planned.values() {
        conflicts.update(None, Some(Claims::new(service, frontends)));
    }
    let frontends = planned
        .values()
        .flat_map(|(_, frontends)| conflicts.survivors(frontends).cloned())
        .collect();
    let mut input_errors = conflicts.errors();
    input_errors
        .extend(planned.iter().filter_map(|(name, (_, frontends))| too_large(name, frontends)));
    input_errors.extend(node.is_none().then(|| missing_node(node_name)));
    input_errors.sort();
    (Plan { node: node_name.into(), frontends }, input_errors)
}

/// The error if the objects are complete without this node.
pub(super) fn missing_node(name: &str) -> InputError {
    InputError {
        object: Subject::of(Kind::Node, &ObjectName::new("", name)),
        field: String::new(),
        message: "does not exist; endpoints are chosen as if it had no zone".to_owned(),
    }
}
