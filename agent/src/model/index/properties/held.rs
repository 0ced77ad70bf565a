//! What the index is compared with: the objects that are left, planned at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    event::{Event, Sourced},
    index::Index,
    node_addresses::NodePortScope,
    object::{InputError, Kind, Object, ObjectName, ObjectRef},
    plan::Plan,
    planner,
};

/// The objects as they were last reported: all that the index may depend on.
#[derive(Default)]
pub(super) struct Held(pub(super) BTreeMap<ObjectRef, Sourced>);

impl Held {
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Apply(sourced) => {
                self.0.insert(sourced.reference.clone(), sourced.clone());
            }
            Event::Delete(reference) => {
                self.0.remove(reference);
            }
            Event::Replace(kind, objects) => {
                self.0.retain(|held, _| held.kind != *kind);
                self.0.extend(objects.iter().map(|o| (o.reference.clone(), o.clone())));
            }
            Event::SourceErrors(_) | Event::Completeness(_) => {}
        }
    }

    pub(super) fn plan(&self) -> (Plan, Vec<InputError>) {
        plan(self.0.values().filter_map(|sourced| sourced.object.as_ref()))
    }

    /// The services that exist and of which an object cannot be used.
    pub(super) fn retained(&self) -> BTreeSet<ObjectName> {
        let exists = |service: &ObjectName| {
            self.0.contains_key(&ObjectRef { kind: Kind::Service, name: service.clone() })
        };
        self.0.values().filter_map(Sourced::retains).filter(exists).collect()
    }

    /// What an agent knows that starts now, of lists in any order.
    pub(super) fn start(&self, scope: NodePortScope, shuffle: &[usize]) -> Index {
        let mut index = Index::new("here").with_node_ports(scope);
        for kind in Kind::ALL {
            let of_kind = self.0.values().filter(|o| o.reference.kind == kind).cloned();
            index.apply(Event::Replace(kind, shuffled(of_kind.collect(), shuffle)));
        }
        index
    }
}

/// By some numbers, the same for the same.
pub(super) fn shuffled<T>(mut things: Vec<T>, numbers: &[usize]) -> Vec<T> {
    for (i, number) in (1..things.len()).zip(numbers.iter().cycle()) {
        things.swap(i, number % (i + 1));
    }
    things
}

pub(super) fn plan<'a>(objects: impl Iterator<Item = &'a Object>) -> (Plan, Vec<InputError>) {
    let (mut services, mut slices, mut nodes) = (vec![], vec![], vec![]);
    for object in objects {
        match object {
            Object::Service(service) => services.push(service),
            Object::EndpointSlice(slice) => slices.push(slice),
            Object::Node(node) => nodes.push(node),
            Object::Namespace(_) | Object::Pod(_) => {}
        }
    }
    planner::plan(services, slices, nodes, "here")
}
