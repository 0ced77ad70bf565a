//! JSON documents in the form of the Kubernetes API: `apiVersion`, `kind`, and fields in lowerCamelCase.

use serde::Serialize;

/// The version of all documents. A later version may add fields; only another `apiVersion` changes them.
pub const VERSION: &str = "sockline.dev/v1";

/// A document: its type, and its fields behind that.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    fields: T,
}

impl<T: Serialize> Document<T> {
    pub const fn new(kind: &'static str, fields: T) -> Self {
        Self { api_version: VERSION, kind, fields }
    }

    /// The text that a command prints.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn to_text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
