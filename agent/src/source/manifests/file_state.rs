//! The last known objects of each file, and what was sent. No I/O.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    file::Manifest,
    folder::{File, FolderContents, duplicate},
};
use crate::{
    model::{
        event::Completeness,
        object::{InputError, Kind, ObjectRef},
    },
    source::{Event, Sourced},
};

#[derive(Default)]
pub(super) struct FileStates {
    /// Objects by file, including those that were kept.
    files: BTreeMap<String, BTreeMap<ObjectRef, Sourced>>,
    /// `None` before the first snapshot.
    sent: Option<BTreeMap<ObjectRef, Sourced>>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Update {
    pub(super) events: Vec<Event>,
    pub(super) input_errors: Vec<InputError>,
    /// Whether every file could be read in full.
    pub(super) completeness: Completeness,
}

impl FileStates {
    /// How many objects the receiver knows.
    pub(super) fn len(&self) -> usize {
        self.sent.as_ref().map_or(0, BTreeMap::len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn update(&mut self, contents: FolderContents) -> Update {
        let mut input_errors = Vec::new();
        let completeness = if contents.files.iter().any(|file| file.manifest.incomplete) {
            Completeness::Incomplete
        } else {
            Completeness::Complete
        };
        let mut files = BTreeMap::new();
        let mut current = BTreeMap::new();
        let mut kept = Vec::new();
        let mut owners: BTreeMap<ObjectRef, String> = BTreeMap::new();

        for file in contents.files {
            let File { name, manifest } = file;
            let Manifest { objects, input_errors: file_input_errors, incomplete } = manifest;
            input_errors.extend(file_input_errors);
            let mut own = BTreeMap::new();
            for object in objects {
                match own.entry(object.reference.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(object);
                    }
                    Entry::Occupied(entry) => {
                        input_errors.push(duplicate(entry.key(), &name, &name));
                    }
                }
            }
            if incomplete && let Some(before) = self.files.get(&name) {
                own.values_mut().for_each(|object| keep(object, before));
            }
            for (reference, object) in &own {
                if let Some(first) = owners.get(reference) {
                    input_errors.push(duplicate(reference, first, &name));
                    continue;
                }
                owners.insert(reference.clone(), name.clone());
                current.insert(reference.clone(), object.clone());
            }
            if incomplete && let Some(before) = self.files.remove(&name) {
                kept.push((name, own, before));
            } else {
                files.insert(name, own);
            }
        }

        // After all files: an object that moved from an incomplete file to a complete one belongs to the latter.
        for (name, mut own, before) in kept {
            let missing: Vec<_> = before
                .into_iter()
                .filter(|(reference, _)| !owners.contains_key(reference))
                .collect();
            if !missing.is_empty() {
                input_errors.push(InputError {
                    object: format!("file {name}").into(),
                    field: String::new(),
                    message: format!(
                        "is not whole; {} of its objects are kept as they were",
                        missing.len()
                    ),
                });
            }
            for (reference, object) in missing {
                current.entry(reference.clone()).or_insert_with(|| object.clone());
                own.insert(reference, object);
            }
            files.insert(name, own);
        }

        self.files = files;
        let events = match &self.sent {
            None => replace_all(&current),
            Some(sent) => difference(sent, &current),
        };
        self.sent = Some(current);
        Update { events, input_errors, completeness }
    }
}

/// Keeps the last usable version of an object that cannot be used now.
fn keep(object: &mut Sourced, before: &BTreeMap<ObjectRef, Sourced>) {
    let known = before.get(&object.reference).filter(|known| !known.is_lost());
    if let Some(known) = known.filter(|_| object.is_lost()) {
        object.object.clone_from(&known.object);
        object.service.clone_from(&known.service);
        object
            .input_errors
            .iter_mut()
            .for_each(|input_error| input_error.set_consequence("it stays as it was"));
    }
}

fn replace_all(current: &BTreeMap<ObjectRef, Sourced>) -> Vec<Event> {
    let of = |kind| current.values().filter(move |o| o.reference.kind == kind).cloned().collect();
    Kind::ALL.map(|kind| Event::Replace(kind, of(kind))).into()
}

/// EndpointSlices are applied before their Service and deleted after it.
fn difference(
    sent: &BTreeMap<ObjectRef, Sourced>,
    current: &BTreeMap<ObjectRef, Sourced>,
) -> Vec<Event> {
    let is_service = |reference: &ObjectRef| reference.kind == Kind::Service;
    let mut changed: Vec<_> =
        current.values().filter(|object| sent.get(&object.reference) != Some(object)).collect();
    changed.sort_by_key(|object| is_service(&object.reference));
    let current: BTreeSet<_> = current.keys().collect();
    let mut gone: Vec<_> = sent.keys().filter(|name| !current.contains(name)).collect();
    gone.sort_by_key(|reference| !is_service(reference));

    let applied = changed.into_iter().cloned().map(Event::Apply);
    applied.chain(gone.into_iter().cloned().map(Event::Delete)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::object::{Node, Object, ObjectName};

    fn object(kind: Kind, name: &str, mark: &str) -> Sourced {
        let input_error = InputError {
            object: mark.to_owned().into(),
            field: String::new(),
            message: String::new(),
        };
        Sourced {
            reference: ObjectRef { kind, name: ObjectName::new("shop", name) },
            object: None,
            service: None,
            input_errors: vec![input_error],
        }
    }

    fn file(name: &str, objects: Vec<Sourced>) -> File {
        let manifest = Manifest { objects, input_errors: vec![], incomplete: false };
        File { name: name.into(), manifest }
    }

    fn broken_file(name: &str, objects: Vec<Sourced>) -> File {
        let manifest = Manifest { objects, input_errors: vec![], incomplete: true };
        File { name: name.into(), manifest }
    }

    fn file_states(files: Vec<File>) -> FileStates {
        let mut file_states = FileStates::default();
        file_states.update(FolderContents { files });
        file_states
    }

    #[test]
    fn an_object_that_moves_out_of_a_broken_file_is_the_whole_files() {
        let mut file_states =
            file_states(vec![file("a", vec![object(Kind::Service, "cart", "old")])]);
        let moved = object(Kind::Service, "cart", "new");
        let update = file_states.update(FolderContents {
            files: vec![broken_file("a", vec![]), file("b", vec![moved.clone()])],
        });
        let events = vec![Event::Apply(moved)];
        assert_eq!(
            update,
            Update { events, input_errors: vec![], completeness: Completeness::Incomplete }
        );
    }

    #[test]
    fn what_a_broken_file_kept_survives_until_it_is_whole() {
        let cart = object(Kind::Service, "cart", "");
        let mut file_states = file_states(vec![file("a", vec![cart.clone()])]);
        for _ in 0..2 {
            let update =
                file_states.update(FolderContents { files: vec![broken_file("a", vec![])] });
            assert_eq!(update.events, []);
            assert_eq!(update.input_errors.len(), 1, "{:?}", update.input_errors);
        }
        let update = file_states.update(FolderContents { files: vec![file("a", vec![])] });
        assert_eq!(update.events, [Event::Delete(cart.reference)]);
    }

    #[test]
    fn the_first_of_two_files_with_the_same_object_counts_and_the_second_takes_over() {
        let (first, second) = (object(Kind::Node, "n", "first"), object(Kind::Node, "n", "second"));
        let b = file("b", vec![second.clone()]);
        let mut file_states = FileStates::default();
        let update = file_states
            .update(FolderContents { files: vec![file("a", vec![first.clone()]), b.clone()] });
        assert!(update.events.contains(&Event::Replace(Kind::Node, vec![first])));
        assert_eq!(
            update.input_errors[0].to_string(),
            "Node shop/n: in file a and again in file b; only the first counts"
        );
        let update = file_states.update(FolderContents { files: vec![b] });
        assert_eq!(
            update,
            Update {
                events: vec![Event::Apply(second)],
                input_errors: vec![],
                completeness: Completeness::Complete
            }
        );
    }

    #[test]
    fn an_object_that_is_twice_in_one_file_is_reported() {
        let (first, second) =
            (object(Kind::Service, "cart", "first"), object(Kind::Service, "cart", "second"));
        let mut file_states = FileStates::default();
        let update = file_states
            .update(FolderContents { files: vec![file("a", vec![first.clone(), second])] });
        assert!(update.events.contains(&Event::Replace(Kind::Service, vec![first])));
        let told: Vec<_> = update.input_errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["Service shop/cart: twice in file a; only the first counts"]);
    }

    #[test]
    fn an_object_of_which_nothing_is_known_any_more_stays_as_it_was() {
        let node = |name: &str| Node { name: name.into(), zone: None, addresses: vec![] };
        let lost = object(Kind::Node, "n", "Node n");
        let good =
            Sourced { object: Some(Object::Node(node("n"))), input_errors: vec![], ..lost.clone() };
        let mut file_states = file_states(vec![file("a", vec![good.clone()])]);
        for _ in 0..2 {
            file_states
                .update(FolderContents { files: vec![broken_file("a", vec![lost.clone()])] });
            let sent = file_states.sent.as_ref().unwrap().values().next().unwrap();
            assert_eq!(sent.object, good.object);
            assert_eq!(sent.input_errors[0].message, "; it stays as it was");
        }
    }

    #[test]
    fn endpoints_come_before_their_service_and_go_after_it() {
        let service = object(Kind::Service, "cart", "");
        let slice = object(Kind::EndpointSlice, "cart-1", "");
        let whole = file("a", vec![service.clone(), slice.clone()]);
        let mut file_states = file_states(vec![]);
        let came = file_states.update(FolderContents { files: vec![whole] });
        assert_eq!(came.events, [Event::Apply(slice.clone()), Event::Apply(service.clone())]);
        let went = file_states.update(FolderContents::default());
        assert_eq!(went.events, [Event::Delete(service.reference), Event::Delete(slice.reference)]);
    }
}
