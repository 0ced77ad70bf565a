//! The text of one manifest file: YAML with any number of documents, or JSON.
//!
//! Documents are split before they are parsed, so that a broken one does not affect others. Of a list, one item
//! is in memory at a time.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{self, Syntax, Take};
use crate::{
    model::object::{InputError, Kind, shorten},
    source::{
        Sourced,
        decode::{self, limits::Content},
    },
};

/// What one file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// In the order of the file. The same object may be in it twice.
    pub objects: Vec<Sourced>,
    /// What is wrong with the file rather than with one of its objects.
    pub input_errors: Vec<InputError>,
    /// A document did not parse, or an object has no name: the file may have more objects than `objects`.
    pub incomplete: bool,
}

/// Reads the text of a file. `file` is its name, for messages. A name that ends in `.json` is parsed as JSON.
#[must_use]
pub fn parse(file: &str, text: &str) -> Manifest {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let syntax = if file.ends_with(".json") { Syntax::Json } else { Syntax::Yaml };
    let mut reader = Reader {
        file,
        manifest: Manifest::default(),
        ignored: BTreeSet::new(),
        taken: Manifest::default(),
    };
    document::read(text, syntax, &mut reader);
    reader.manifest
}

/// Where in the file an object is.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Counted from 1.
    document: usize,
    /// Index in the document's `items`.
    item: Option<usize>,
}

struct Reader<'a> {
    file: &'a str,
    manifest: Manifest,
    /// Kinds that were already reported as ignored, so that a file of Deployments does not fill the log.
    ignored: BTreeSet<String>,
    /// Items of the current document. They count only if the document turns out to be a list.
    taken: Manifest,
}

impl Take for Reader<'_> {
    fn item(&mut self, document: usize, index: usize, content: Content) -> Option<Value> {
        let says = |field| content.value.get(field).is_some_and(Value::is_string);
        if !(says("apiVersion") && says("kind")) {
            // Its kind depends on the list, whose kind may follow its items.
            return Some(if content.is_cut { Value::Null } else { content.value });
        }
        let position = Position { document, item: Some(index) };
        let before = std::mem::replace(&mut self.manifest, std::mem::take(&mut self.taken));
        self.read(&content, position, None);
        self.taken = std::mem::replace(&mut self.manifest, before);
        None
    }

    fn document(&mut self, document: usize, content: Result<Content, String>) {
        let taken = std::mem::take(&mut self.taken);
        let position = Position { document, item: None };
        match content {
            Ok(content) => {
                if self.read(&content, position, None) {
                    self.manifest.objects.extend(taken.objects);
                    self.manifest.input_errors.extend(taken.input_errors);
                }
            }
            Err(why) => {
                self.manifest.incomplete = true;
                let why = shorten(why);
                self.input_error(position, "", &format!("does not parse: {why}; it is skipped"));
            }
        }
    }
}

impl Reader<'_> {
    fn input_error(&mut self, position: Position, field: &str, message: &str) {
        let field = match (position.item, field) {
            (Some(item), "") => format!("items[{item}]"),
            (Some(item), field) => format!("items[{item}].{field}"),
            (None, field) => field.to_owned(),
        };
        self.manifest.input_errors.push(InputError {
            object: format!("file {}, document {}", self.file, position.document).into(),
            field,
            message: shorten(message.to_owned()),
        });
    }

    /// `kind_of_list` is the kind of an item that does not name one: items of typed lists do not. Returns whether
    /// this is a list.
    fn read(&mut self, content: &Content, position: Position, kind_of_list: Option<Kind>) -> bool {
        let Content { value, .. } = content;
        if value.is_null() {
            return false;
        }
        let Some(object) = value.as_object() else {
            self.input_error(position, "", "not a Kubernetes object; it is skipped");
            return false;
        };
        let text = |field| object.get(field).and_then(Value::as_str);
        let (version, kind) = match (text("apiVersion"), text("kind"), kind_of_list) {
            (_, None, Some(kind)) => {
                self.read_object(kind, content, position);
                return false;
            }
            (_, None, None) => {
                self.input_error(position, "kind", "missing; it is skipped");
                return false;
            }
            // A list of one kind in that kind's API group.
            (None, Some(kind), Some(of)) if kind == of.as_str() => {
                self.read_object(of, content, position);
                return false;
            }
            (None, Some(_), _) => {
                self.input_error(position, "apiVersion", "missing; it is skipped");
                return false;
            }
            (Some(version), Some(kind), _) => (version, kind),
        };
        if let Some(kind) = decode::kind_of(version, kind) {
            self.read_object(kind, content, position);
            return false;
        }
        let Some(item_kind) = list_of(version, kind) else {
            self.ignore(version, kind, position);
            return false;
        };
        self.read_list(object.get("items"), position, item_kind);
        true
    }

    fn read_list(&mut self, items: Option<&Value>, position: Position, kind: Option<Kind>) {
        match items {
            // Go programs write an empty list as null.
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    let content = Content { value: item.clone(), is_cut: false };
                    self.read(&content, Position { item: Some(i), ..position }, kind);
                }
            }
            Some(_) => self.input_error(position, "items", "not a list; it is skipped"),
        }
    }

    fn read_object(&mut self, kind: Kind, content: &Content, position: Position) {
        let value = in_default_namespace(kind, &content.value);
        let sourced = if content.is_cut {
            Some(decode::too_large(kind, &value))
        } else {
            decode::decode(kind, &value)
        };
        let Some(sourced) = sourced else { return };
        if sourced.reference.name.name.is_empty() {
            // Without a name it could be any object, so the error belongs to the file.
            self.manifest.incomplete = true;
            for input_error in &sourced.input_errors {
                let field = input_error.field.as_str();
                self.input_error(
                    position,
                    field,
                    &format!("{kind} without a name: {}", input_error.message),
                );
            }
        } else {
            self.manifest.incomplete |= sourced.is_lost();
            self.manifest.objects.push(sourced);
        }
    }

    fn ignore(&mut self, api_version: &str, kind: &str, position: Position) {
        let name = format!("{kind} ({api_version})");
        if self.ignored.insert(name.clone()) {
            self.input_error(position, "kind", &format!("{name} is not used here; ignored"));
        }
    }
}

/// `Some` for a list: with its kind, or `Some(None)` if each item names its own.
#[expect(clippy::option_option, reason = "no list, a mixed list and a typed list are three things")]
fn list_of(api_version: &str, kind: &str) -> Option<Option<Kind>> {
    let item = kind.strip_suffix("List")?;
    if item.is_empty() {
        return (api_version == "v1").then_some(None);
    }
    decode::kind_of(api_version, item).map(Some)
}

/// As with kubectl, an object without a namespace is in `default`.
fn in_default_namespace(kind: Kind, value: &Value) -> std::borrow::Cow<'_, Value> {
    use std::borrow::Cow;
    let metadata = value.get("metadata").and_then(Value::as_object);
    let given = |m: &serde_json::Map<String, Value>| {
        m.get("namespace").is_some_and(|n| *n != "" && !n.is_null())
    };
    if !kind.is_namespaced() || metadata.is_none_or(given) {
        return Cow::Borrowed(value);
    }
    let mut value = value.clone();
    value["metadata"]["namespace"] = Value::from("default");
    Cow::Owned(value)
}

#[cfg(test)]
mod tests;
