//! What the source, the index and the planner report of an object that cannot be used.

use std::fmt;

use super::{Kind, ObjectName, ObjectRef};

/// An error in the input: an object that is invalid or conflicts with another one, or a source that cannot be
/// read. Only what it names is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputError {
    pub object: Subject,
    /// The field's path in the object, `spec.ports[0].port`; empty when it concerns all of it.
    pub field: String,
    /// The error and its consequence: `0 is not a port number; the port is skipped`. The consequence
    /// follows the last `; `; [`Self::set_consequence`] replaces it.
    pub message: String,
}

/// What an input error is about: an object, or a file, a folder or a watch. The text is first, so that errors are
/// sorted as people read them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    text: String,
    reference: Option<ObjectRef>,
}

/// Maximum length, in characters, of kind, namespace and name of a valid object.
const LONGEST: usize = 2 * 253 + 20;
/// Characters that are left of a longer one.
const START: usize = 80;

impl Subject {
    #[must_use]
    pub fn of(kind: Kind, name: &ObjectName) -> Self {
        Self::from(&ObjectRef { kind, name: name.clone() })
    }

    /// `Service shop/cart`, or `file web.yaml, document 3`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The object; `None` if it is none, or has a name that is too long for one.
    #[must_use]
    pub const fn reference(&self) -> Option<&ObjectRef> {
        self.reference.as_ref()
    }
}

/// Shortens a name that is too long, which would make each message about the object unreadable.
impl From<&ObjectRef> for Subject {
    fn from(reference: &ObjectRef) -> Self {
        let text = reference.to_string();
        if text.chars().count() <= LONGEST {
            return Self { text, reference: Some(reference.clone()) };
        }
        let start: String = text.chars().take(START).collect();
        format!("{start}…").into()
    }
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Self { text, reference: None }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Maximum length, in characters, of a text from outside in a message.
const SHORT: usize = 400;

/// Shortens a long text from outside. What follows the last `; ` stays, because it is the consequence.
#[must_use]
pub fn shorten(text: String) -> String {
    if text.chars().nth(SHORT).is_none() {
        return text;
    }
    let start: String = text.chars().take(SHORT / 2).collect();
    let consequence = text.rfind("; ").map_or("", |at| &text[at..]);
    let consequence: String = consequence.chars().take(SHORT / 2).collect();
    format!("{start}…{consequence}")
}

impl InputError {
    /// Replaces the consequence in the message.
    pub fn set_consequence(&mut self, consequence: &str) {
        if let Some(at) = self.message.rfind("; ") {
            self.message.truncate(at);
        }
        self.message.push_str("; ");
        self.message.push_str(consequence);
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_the_subject_by_reference_unless_its_name_is_too_long_for_one() {
        let service =
            |name: &str| ObjectRef { kind: Kind::Service, name: ObjectName::new("shop", name) };
        let cart = Subject::from(&service("cart"));
        assert_eq!(
            (cart.as_str(), cart.reference()),
            ("Service shop/cart", Some(&service("cart")))
        );
        let long = Subject::from(&service(&"x".repeat(LONGEST)));
        assert_eq!((long.as_str().chars().count(), long.reference()), (START + 1, None));
        assert_eq!(Subject::from("file a.yaml".to_owned()).reference(), None);
    }
}
