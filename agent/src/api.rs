//! JSON documents in the form of the Kubernetes API: `apiVersion`, `kind`, and fields in lowerCamelCase.
//!
//! Commands print them with `-o json`, and the admin socket takes and returns them. Both sides of the socket check
//! version and kind, because the command may be of another build than the agent.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::escape;

/// The version of all documents. A later build may add fields; only another `apiVersion` changes them.
pub const VERSION: &str = "sockline.dev/v1";

/// The fields of a document.
pub trait Kind {
    /// The document's `kind`.
    const KIND: &'static str;
}

/// Gives types their kinds.
macro_rules! kinds {
    ($($document:ty = $kind:literal),+ $(,)?) => {$(
        impl $crate::api::Kind for $document {
            const KIND: &'static str = $kind;
        }
    )+};
}
pub(crate) use kinds;

impl<T: Kind> Kind for &T {
    const KIND: &'static str = T::KIND;
}

/// A document: its type, and its fields behind that.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    fields: T,
}

impl<T: Kind> Document<T> {
    pub const fn new(fields: T) -> Self {
        Self { api_version: VERSION, kind: T::KIND, fields }
    }
}

impl<T: Serialize> Document<T> {
    /// The text that a command prints.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn to_text(&self) -> serde_json::Result<String> {
        Ok(escape::json(&serde_json::to_string_pretty(self)?) + "\n")
    }
}

/// Why a text is not the expected document.
#[derive(Debug, thiserror::Error)]
#[error("{wrong}; use the agent's own `sockline`, in a cluster `/sockline` in its pod")]
pub struct ReadError {
    wrong: String,
}

/// Reads the fields of a document.
///
/// # Errors
/// When it has another version or kind, or its fields are not those of `T`. The message says what to do: the text
/// comes from another build of Sockline.
pub fn read<T: Kind + DeserializeOwned>(text: &[u8]) -> Result<T, ReadError> {
    let error = |wrong: String| ReadError { wrong };
    let mut fields: Map<String, Value> =
        serde_json::from_slice(text).map_err(|wrong| error(format!("no JSON object: {wrong}")))?;
    for (name, expected) in [("apiVersion", VERSION), ("kind", T::KIND)] {
        let build = env!("CARGO_PKG_VERSION");
        match fields.remove(name) {
            Some(Value::String(found)) if found == expected => {}
            Some(found) => {
                let found = found.as_str().map_or_else(|| found.to_string(), ToOwned::to_owned);
                return Err(error(format!(
                    "its {name} is {found}, and this build ({build}) reads {expected}"
                )));
            }
            None => {
                return Err(error(format!(
                    "it has no {name}, and this build ({build}) reads {expected}"
                )));
            }
        }
    }
    serde_path_to_error::deserialize(Value::Object(fields))
        .map_err(|wrong| error(wrong.to_string()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Counts {
        count: u64,
    }

    impl Kind for Counts {
        const KIND: &'static str = "Counts";
    }

    fn wrong(text: &str) -> String {
        read::<Counts>(text.as_bytes()).unwrap_err().wrong
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let text = Document::new(Counts { count: 3 }).to_text().unwrap();
        assert_eq!(read::<Counts>(text.as_bytes()).unwrap(), Counts { count: 3 });
    }

    #[test]
    fn fields_may_be_added_within_a_version() {
        let text = r#"{"apiVersion": "sockline.dev/v1", "kind": "Counts", "count": 1, "new": []}"#;
        assert_eq!(read::<Counts>(text.as_bytes()).unwrap(), Counts { count: 1 });
    }

    #[test]
    fn a_document_of_another_version_or_kind_is_an_error_that_names_both() {
        let build = env!("CARGO_PKG_VERSION");
        let of_v2 = wrong(r#"{"apiVersion": "sockline.dev/v2", "kind": "Counts", "count": 1}"#);
        let expected = format!(
            "its apiVersion is sockline.dev/v2, and this build ({build}) reads sockline.dev/v1"
        );
        assert_eq!(of_v2, expected);
        let without = wrong(r#"{"kind": "Counts", "count": 1}"#);
        let expected =
            format!("it has no apiVersion, and this build ({build}) reads sockline.dev/v1");
        assert_eq!(without, expected);
        let other = wrong(r#"{"apiVersion": "sockline.dev/v1", "kind": "Drift", "count": 1}"#);
        assert_eq!(other, format!("its kind is Drift, and this build ({build}) reads Counts"));
    }

    #[test]
    fn anything_else_is_an_error_that_names_the_field() {
        assert!(wrong("[]").starts_with("no JSON object: "), "{}", wrong("[]"));
        let missing = wrong(r#"{"apiVersion": "sockline.dev/v1", "kind": "Counts"}"#);
        assert_eq!(missing, "missing field `count`");
        let text = r#"{"apiVersion": "sockline.dev/v1", "kind": "Counts", "count": "many"}"#;
        assert!(wrong(text).starts_with("count: invalid type"), "{}", wrong(text));
    }
}
