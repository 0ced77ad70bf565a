//! The objects and their history, under one resource version.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde_json::{Value, json};

use super::Resource;

/// `namespace/name`, in the order of the real server's keys.
pub(super) type Key = String;

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    objects: BTreeMap<(Resource, Key), Arc<Value>>,
    /// Oldest first; versions grow by one or more.
    history: VecDeque<Change>,
    /// Changes up to this version are not in the history any more.
    compacted: u64,
}

/// One change of one object.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: Resource,
    key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// A watch cache holds this many events of a resource, at least.
const HISTORY: usize = 10_000;

impl Store {
    pub(super) fn apply(&mut self, object: &Value) {
        let (resource, key) = address(object);
        self.version += 1;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Arc::new(object);
        let before = self.objects.insert((resource, key.clone()), Arc::clone(&after));
        self.remember(resource, key, before, Some(after));
    }

    pub(super) fn delete(&mut self, object: &Value) {
        let (resource, key) = address(object);
        if let Some(before) = self.objects.remove(&(resource, key.clone())) {
            self.version += 1;
            self.remember(resource, key, Some(before), None);
        }
    }

    fn remember(
        &mut self,
        resource: Resource,
        key: Key,
        before: Option<Arc<Value>>,
        after: Option<Arc<Value>>,
    ) {
        self.history.push_back(Change { version: self.version, resource, key, before, after });
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.version;
        }
    }

    pub(super) fn compact(&mut self) {
        // The compacted version is older than the current one, else no watch could start.
        self.version += 1;
        self.compacted = self.version - 1;
        self.history.clear();
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Watches must begin at this version or later.
    pub(super) const fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn objects(&self, resource: Resource) -> Vec<Value> {
        let objects = self.objects.iter().filter(|((of, _), _)| *of == resource);
        objects.map(|(_, object)| (**object).clone()).collect()
    }

    /// The objects at a version; `None` if it was compacted.
    pub(super) fn at(&self, resource: Resource, version: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if version < self.compacted {
            return None;
        }
        let objects = self.objects.iter().filter(|((of, _), _)| *of == resource);
        let mut objects: BTreeMap<Key, Arc<Value>> =
            objects.map(|((_, key), object)| (key.clone(), Arc::clone(object))).collect();
        let later = self.history.iter().rev().take_while(|change| change.version > version);
        for change in later.filter(|change| change.resource == resource) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Some(objects)
    }

    /// The changes of a resource after a version, oldest first.
    pub(super) fn since(
        &self,
        resource: Resource,
        version: u64,
    ) -> impl DoubleEndedIterator<Item = &Change> {
        let first = self.history.partition_point(|change| change.version <= version);
        self.history.range(first..).filter(move |change| change.resource == resource)
    }
}

fn address(object: &Value) -> (Resource, Key) {
    let resource = Resource::of(object);
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let namespace = if resource.is_namespaced() { text("namespace") } else { "" };
    (resource, format!("{namespace}/{}", text("name")))
}
