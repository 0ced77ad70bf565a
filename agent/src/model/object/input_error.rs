//! What the source, the index and the planner report of an object that cannot be used.

use std::fmt;

use serde::Serialize;

/// An error in the input: an object that is invalid or conflicts with another one, or a source that cannot be
/// read. Only what it names is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InputError {
    /// `Service shop/cart`, or `file web.yaml, document 3`.
    pub object: String,
    /// The field's path in the object, `spec.ports[0].port`; empty when it concerns all of it.
    pub field: String,
    /// The error and its consequence: `0 is not a port number; the port is skipped`. The consequence
    /// follows the last `; `; [`Self::set_consequence`] replaces it.
    pub message: String,
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
