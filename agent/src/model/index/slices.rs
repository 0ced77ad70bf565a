//! The EndpointSlices, by the service that they belong to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::model::{
    intern::Interner,
    object::{EndpointSlice, Hints, ObjectName},
};

#[derive(Debug)]
pub(super) struct Slices {
    /// By service, then by slice name: kube-proxy's merge needs a fixed order, any will do.
    /// Boxed: most services have one slice, and a node of the tree has room for eleven.
    by_service: HashMap<ObjectName, BTreeMap<Arc<str>, Box<EndpointSlice>>>,
    /// Which service a slice was filed under: the label can change.
    owner: HashMap<ObjectName, ObjectName>,
    node_names: Interner<str>,
    zones: Interner<str>,
    hints: Interner<Hints>,
}

/// A service whose slices changed.
pub(super) struct Touched {
    pub(super) service: ObjectName,
    /// The time that the slice names, if it has changed.
    pub(super) triggered: Option<Timestamp>,
}

impl Slices {
    pub(super) fn new() -> Self {
        Self {
            by_service: HashMap::new(),
            owner: HashMap::new(),
            node_names: Interner::new(),
            zones: Interner::new(),
            hints: Interner::new(),
        }
    }

    /// Adds or updates a slice. Returns the services that lose and get it. Nothing if it
    /// is there already as it is.
    pub(super) fn put(&mut self, mut slice: EndpointSlice) -> Vec<Touched> {
        self.share(&mut slice);
        let service = ObjectName {
            namespace: Arc::clone(&slice.name.namespace),
            name: Arc::clone(&slice.service),
        };
        let mut touched = Vec::new();
        if self.owner.get(&slice.name).is_some_and(|previous| *previous != service) {
            touched.extend(self.remove(&slice.name));
        }
        let slices = self.by_service.entry(service.clone()).or_default();
        let before = slices.get(&slice.name.name).map(|known| &**known);
        if before != Some(&slice) {
            // The annotation stays when the slice changes for another reason.
            let triggered = slice
                .triggered
                .filter(|time| before.is_none_or(|old| old.triggered != Some(*time)));
            self.owner.insert(slice.name.clone(), service.clone());
            slices.insert(Arc::clone(&slice.name.name), Box::new(slice));
            touched.push(Touched { service, triggered });
        }
        touched
    }

    fn share(&mut self, slice: &mut EndpointSlice) {
        for endpoint in &mut slice.endpoints {
            if let Some(node) = &mut endpoint.node {
                self.node_names.share(node);
            }
            if let Some(zone) = &mut endpoint.zone {
                self.zones.share(zone);
            }
            if let Some(hints) = &mut endpoint.hints {
                self.hints.share(hints);
            }
        }
    }

    pub(super) fn remove(&mut self, name: &ObjectName) -> Option<Touched> {
        let service = self.owner.remove(name)?;
        if let Some(slices) = self.by_service.get_mut(&service) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
        Some(Touched { service, triggered: None })
    }

    /// A service's, in the order of their names.
    pub(super) fn of(
        &self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &EndpointSlice> + Clone + use<'_> {
        self.by_service.get(service).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.by_service.values().flat_map(BTreeMap::values).map(|slice| &**slice)
    }
}
