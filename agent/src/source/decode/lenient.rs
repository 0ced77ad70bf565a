//! Deserializes an object in spite of values of the wrong type.
//!
//! Serde stops at the first such value. Usually it is in an element of a list (a port, an endpoint): that element
//! is replaced by an empty one, and the object is tried again.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

/// An object with more wrong elements than this is not used: each takes another attempt.
const MAX_ATTEMPTS: usize = 16;

/// A value of the wrong type.
pub(super) struct WrongType {
    /// Its path, empty for the whole object.
    pub(super) field: String,
    /// The path of the element that was replaced for it.
    pub(super) element: String,
    pub(super) message: String,
}

/// The object, unless a value outside a list has the wrong type, and all such values.
pub(super) fn deserialize<T: DeserializeOwned>(value: &Value) -> (Option<T>, Vec<WrongType>) {
    let mut replaced: Option<Value> = None;
    let mut found: Vec<WrongType> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(replaced.as_ref().unwrap_or(value)) {
            Ok(object) => return (Some(object), found),
            Err(error) => error,
        };
        let path = error.path();
        let element = ListElement::holding(path);
        let skipped = element.as_ref().map_or("the object", |_| "this element");
        let wrong = WrongType {
            field: if path.iter().len() == 0 { String::new() } else { path.to_string() },
            element: element.as_ref().map_or_else(String::new, |element| element.path.clone()),
            message: format!("{}; {skipped} is skipped", error.inner()),
        };
        // An empty object did not fit either, so this is a list of strings.
        let retry = found.last().is_some_and(|last| last.element == wrong.element);
        if !retry {
            found.push(wrong);
        }
        let Some(element) = element.filter(|_| found.len() <= MAX_ATTEMPTS) else {
            return (None, found);
        };
        let value = replaced.get_or_insert_with(|| value.clone());
        let Some(slot) = value.pointer_mut(&element.pointer) else { return (None, found) };
        if retry && *slot == json!("") {
            return (None, found);
        }
        *slot = if retry || *slot == json!({}) { json!("") } else { json!({}) };
    }
}

/// The outermost list element on the way to a field.
struct ListElement {
    /// `spec.ports[1]`
    path: String,
    /// The same as a JSON pointer (RFC 6901).
    pointer: String,
}

impl ListElement {
    fn holding(path: &Path) -> Option<Self> {
        let mut pointer = String::new();
        let mut shown = String::new();
        for segment in path {
            match segment {
                Segment::Map { key } => {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    if !shown.is_empty() {
                        shown.push('.');
                    }
                    shown.push_str(key);
                }
                Segment::Seq { index } => {
                    return Some(Self {
                        path: format!("{shown}[{index}]"),
                        pointer: format!("{pointer}/{index}"),
                    });
                }
                Segment::Enum { .. } | Segment::Unknown => return None,
            }
        }
        None
    }
}
