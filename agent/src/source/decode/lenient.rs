//! Deserializing around what has the wrong type.
//!
//! Serde stops at the first such value. It is usually in an element of a list (a port, an
//! endpoint): that element is replaced by an empty one and the rest is tried again.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

/// An object with more wrong elements than this is given up: each costs another attempt.
const MAX_REPAIRS: usize = 16;

/// A value of the wrong type.
pub(super) struct Wrong {
    /// Its path, empty for the whole object.
    pub(super) field: String,
    /// The path of what was left out for it.
    pub(super) element: String,
    pub(super) message: String,
}

/// The object, unless something outside a list is wrong, and what is.
pub(super) fn deserialize<T: DeserializeOwned>(value: &Value) -> (Option<T>, Vec<Wrong>) {
    let mut repaired: Option<Value> = None;
    let mut wrongs: Vec<Wrong> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(repaired.as_ref().unwrap_or(value)) {
            Ok(object) => return (Some(object), wrongs),
            Err(error) => error,
        };
        let path = error.path();
        let element = ListElement::holding(path);
        let left_out = element.as_ref().map_or("the object", |_| "this element");
        let wrong = Wrong {
            field: if path.iter().len() == 0 { String::new() } else { path.to_string() },
            element: element.as_ref().map_or_else(String::new, |element| element.path.clone()),
            message: format!("{}; {left_out} is left out", error.inner()),
        };
        // The empty object did not fit either, so the list is one of strings.
        let retry = wrongs.last().is_some_and(|last| last.element == wrong.element);
        if !retry {
            wrongs.push(wrong);
        }
        let Some(element) = element.filter(|_| wrongs.len() <= MAX_REPAIRS) else {
            return (None, wrongs);
        };
        let value = repaired.get_or_insert_with(|| value.clone());
        let Some(slot) = value.pointer_mut(&element.pointer) else { return (None, wrongs) };
        if retry && *slot == json!("") {
            return (None, wrongs);
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
