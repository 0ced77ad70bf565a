//! The plan that a node must have for the objects of a server: made by the planner from all objects at once.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use sockline::{
    model::{
        event::Event,
        exclusion::{ExcludedPod, Policy},
        index::Index,
        object::{InputError, Kind, Object},
        plan::Plan,
        planner,
    },
    source::{Sourced, decode::decode},
};
use sockline_testbed::api::{Api, Resource};

use super::watched::NODE;

#[derive(Debug)]
pub(crate) struct Expected {
    plan: Plan,
    input_errors: Vec<InputError>,
    excluded_pods: BTreeMap<Arc<str>, ExcludedPod>,
}

/// The resource of each kind.
pub(crate) const KINDS: [(Kind, Resource); 5] = [
    (Kind::Service, Resource::Services),
    (Kind::EndpointSlice, Resource::EndpointSlices),
    (Kind::Node, Resource::Nodes),
    (Kind::Namespace, Resource::Namespaces),
    (Kind::Pod, Resource::Pods),
];

impl Expected {
    /// The expectation for the objects that the stand-in has now.
    pub(crate) fn of(api: &Api) -> Self {
        Self::from(|resource| api.objects(resource))
    }

    pub(crate) fn from(objects: impl Fn(Resource) -> Vec<Value>) -> Self {
        let mut index = Index::new(NODE);
        let (mut services, mut slices, mut nodes) = (vec![], vec![], vec![]);
        for (kind, resource) in KINDS {
            let objects = objects(resource);
            let wanted = objects.iter().filter(|object| is_wanted(kind, object));
            let objects: Vec<Sourced> = wanted.filter_map(|object| decode(kind, object)).collect();
            for object in objects.iter().filter_map(|sourced| sourced.object.as_ref()) {
                match object {
                    Object::Service(service) => services.push(service.clone()),
                    Object::EndpointSlice(slice) => slices.push(slice.clone()),
                    Object::Node(node) => nodes.push(node.clone()),
                    Object::Namespace(_) | Object::Pod(_) => {}
                }
            }
            index.apply(Event::Replace(kind, objects));
        }
        // Conflicts of two services about an address are known once they are planned.
        index.plan();
        Self {
            plan: planner::plan(&services, &slices, &nodes, NODE).0,
            input_errors: index.input_errors(),
            excluded_pods: index.excluded_pods(&Policy::default()).unwrap_or_default(),
        }
    }

    /// The first difference of a plan.
    pub(crate) fn plan_difference(&self, plan: &Plan) -> Option<String> {
        for (expected, found) in self.plan.frontends.iter().zip(&plan.frontends) {
            if expected != found {
                return Some(format!("expected {expected:#?}\nfound {found:#?}"));
            }
        }
        let (expected, found) = (self.plan.frontends.len(), plan.frontends.len());
        (expected != found).then(|| format!("expected {expected} frontends, found {found}"))
    }

    /// The first difference.
    pub(crate) fn difference(
        &self,
        plan: &Plan,
        input_errors: &[InputError],
        excluded_pods: &BTreeMap<Arc<str>, ExcludedPod>,
    ) -> Option<String> {
        let difference = self.plan_difference(plan);
        if difference.is_some() {
            return difference;
        }
        if self.input_errors != input_errors {
            return Some(format!("expected {:#?}\nfound {input_errors:#?}", self.input_errors));
        }
        (self.excluded_pods != *excluded_pods)
            .then(|| format!("expected {:#?}\nfound {excluded_pods:#?}", self.excluded_pods))
    }
}

/// This node's Node and Pods, and all of the rest.
fn is_wanted(kind: Kind, object: &Value) -> bool {
    match kind {
        Kind::Node => object["metadata"]["name"] == NODE,
        Kind::Pod => object["spec"]["nodeName"] == NODE,
        Kind::Service | Kind::EndpointSlice | Kind::Namespace => true,
    }
}
