//! Applies the events of a source to the objects.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{Index, ServiceState, slices::Touched, unreadable::Existence};
use crate::model::{
    conflict::Claims,
    event::{Event, Sourced},
    object::{EndpointSlice, Kind, Node, Object, ObjectName, ObjectRef, Service},
};

/// Why an object leaves the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Deleted,
    /// It exists, but nothing of it can be used.
    Unreadable,
}

impl Index {
    /// As [`Self::apply`], with the time at which the source reported it.
    pub fn apply_arrived(&mut self, event: Event, arrived: Instant) {
        self.arrived = Some(arrived);
        self.apply(event);
        self.arrived = None;
    }

    /// Applies a change. Services are planned with the next [`Self::changes`] or [`Self::plan`], once for all
    /// changes until then.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Replace(kind, objects) => self.replace(kind, objects),
            Event::Apply(sourced) => self.put(sourced),
            Event::Delete(reference) => self.delete(&reference),
            Event::SourceErrors(errors) => self.source_errors = errors,
            Event::Completeness(completeness) => self.completeness = completeness,
        }
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Sourced>) {
        let listed: HashSet<&ObjectName> = objects.iter().map(|o| &o.reference.name).collect();
        let gone: Vec<ObjectName> = self
            .known
            .get(&kind)
            .into_iter()
            .flatten()
            .filter(|name| !listed.contains(name))
            .cloned()
            .collect();
        for name in gone {
            self.delete(&ObjectRef { kind, name });
        }
        for sourced in objects {
            self.put(sourced);
        }
        self.listed.insert(kind);
    }

    fn put(&mut self, sourced: Sourced) {
        let retained = sourced.retains();
        let Sourced { reference, object, input_errors, .. } = sourced;
        // The valid part is used immediately: the plan depends only on the current objects.
        match object {
            Some(Object::Service(service)) => self.put_service(service),
            Some(Object::EndpointSlice(slice)) => self.put_slice(slice),
            Some(Object::Node(node)) => self.put_node(node),
            Some(Object::Namespace(namespace)) => self.pods.put_namespace(namespace),
            Some(Object::Pod(pod)) => self.pods.put(pod),
            None => self.remove(&reference, Removal::Unreadable),
        }
        self.known.entry(reference.kind).or_default().insert(reference.name.clone());
        self.retain(&reference, retained);
        if input_errors.is_empty() {
            self.object_errors.remove(&reference);
        } else {
            self.object_errors.insert(reference, input_errors);
        }
    }

    fn put_service(&mut self, service: Service) {
        let unusable_uid = self.unusable_uids.remove(&service.name);
        let state = self.services.get(&service.name);
        let known = state.map_or(unusable_uid.as_ref(), |state| state.service.uid.as_ref());
        if known.is_some_and(|uid| service.uid.as_ref().is_some_and(|new| new != uid)) {
            // It was deleted and created again, and the source missed the deletion.
            let reference = ObjectRef { kind: Kind::Service, name: service.name.clone() };
            self.remove(&reference, Removal::Deleted);
        }
        if let Some(state) = self.services.get_mut(&service.name) {
            if state.service != service {
                let name = service.name.clone();
                self.service_addresses.update(Some(&state.service), Some(&service));
                state.service = service;
                self.touch(name, None);
            }
        } else {
            let name = service.name.clone();
            self.service_addresses.update(None, Some(&service));
            let state = ServiceState {
                service,
                frontends: Vec::new(),
                claimed_since: None,
                was_retained: false,
            };
            self.services.insert(name.clone(), state);
            self.touch(name, None);
        }
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        for Touched { service, triggered } in self.slices.put(slice) {
            self.touch(service, triggered);
        }
    }

    fn put_node(&mut self, node: Node) {
        if node.name == self.node_name {
            self.set_node(Some(node));
        } else if let Some(others) = &mut self.others {
            self.others_changed |= others.put(&node);
        }
    }

    fn set_node(&mut self, node: Option<Node>) {
        let zone = |node: &Option<Node>| node.as_ref().and_then(|node| node.zone.clone());
        if zone(&self.node) != zone(&node) {
            let all: Vec<ObjectName> = self.services.keys().cloned().collect();
            all.into_iter().for_each(|service| self.touch(service, None));
        }
        self.node = node;
    }

    fn delete(&mut self, reference: &ObjectRef) {
        self.remove(reference, Removal::Deleted);
        self.object_errors.remove(reference);
        if let Some(known) = self.known.get_mut(&reference.kind) {
            known.remove(&reference.name);
        }
        self.retain(reference, None);
    }

    /// Records which service an object retains, if that service exists.
    fn retain(&mut self, object: &ObjectRef, service: Option<ObjectName>) {
        let before = self.unreadable.set(object, service.as_ref());
        let itself = (object.kind == Kind::Service).then(|| object.name.clone());
        let services: BTreeSet<ObjectName> =
            before.into_iter().chain(service).chain(itself).collect();
        for service in services {
            let services = self.known.get(&Kind::Service);
            let existence = if services.is_some_and(|services| services.contains(&service)) {
                Existence::Exists
            } else {
                Existence::Absent
            };
            if !self.unreadable.update(&service, existence) {
                continue;
            }
            if let Some(state) = self.services.get_mut(&service) {
                state.was_retained = true;
                self.touch(service, None);
            } else {
                // Only now it gives up its addresses.
                self.addresses_moved = true;
                let causes = self.cause(None).into_iter().collect();
                self.record_change(service, causes);
            }
        }
    }

    /// Removes an object from the plan.
    fn remove(&mut self, reference: &ObjectRef, removal: Removal) {
        let name = &reference.name;
        match reference.kind {
            Kind::Service => {
                if removal == Removal::Deleted {
                    self.deleted.insert(name.clone());
                    self.unusable_uids.remove(name);
                }
                if let Some(state) = self.services.remove(name) {
                    self.oversized.remove(name);
                    self.service_addresses.update(Some(&state.service), None);
                    if removal == Removal::Unreadable
                        && let Some(uid) = &state.service.uid
                    {
                        self.unusable_uids.insert(name.clone(), Arc::clone(uid));
                    }
                    let close_on_removal = state.service.close_on_removal;
                    if removal == Removal::Deleted {
                        self.deleted_annotations
                            .extend(close_on_removal.map(|after| (name.clone(), after)));
                    }
                    let mut causes = self.dirty.remove(name).unwrap_or_default();
                    causes.extend(self.cause(None));
                    self.claim(Some(Claims::since(state.claimed_since, &state.frontends)), None);
                    self.record_change(name.clone(), causes);
                }
            }
            Kind::EndpointSlice => {
                if let Some(Touched { service, .. }) = self.slices.remove(name) {
                    self.touch(service, None);
                }
            }
            Kind::Node => {
                if name.name == self.node_name {
                    self.set_node(None);
                } else if let Some(others) = &mut self.others {
                    self.others_changed |= others.remove(&name.name);
                }
            }
            Kind::Namespace => self.pods.remove_namespace(&name.name),
            Kind::Pod => self.pods.remove(name),
        }
    }
}
