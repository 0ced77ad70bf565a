//! The documents that commands print with `-o json`, each with its schema.
//!
//! `deploy/docs/json.md` is written from the schemas, and a test holds what the commands print to them. The commands
//! themselves do not use this file, so the binary has no schemas.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::json;

use super::{
    backends::BackendList, check::CheckReport, map::TrafficMap, plan::PlanReport,
    services::FrontendList, status::StatusReport, trace::TraceReport,
};
use crate::{
    admin::LogFilter,
    api::{self, Kind},
    watch::ConnectionEvent,
};

/// A document that a command prints.
#[derive(Debug)]
pub struct Described {
    pub command: &'static str,
    pub kind: &'static str,
    /// Without references: every type is in its place.
    pub schema: Schema,
}

/// The documents of all commands.
#[must_use]
pub fn all() -> [Described; 9] {
    [
        described::<StatusReport>("status"),
        described::<CheckReport<'_>>("check"),
        described::<FrontendList>("services"),
        described::<BackendList>("backends"),
        described::<PlanReport<'_>>("plan"),
        described::<TraceReport>("trace"),
        described::<LogFilter>("log-level"),
        described::<ConnectionEvent>("watch"),
        described::<TrafficMap>("map"),
    ]
}

fn described<T: Kind + JsonSchema>(command: &'static str) -> Described {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    // What `api::Document` adds.
    for (name, value) in [("apiVersion", api::VERSION), ("kind", T::KIND)] {
        if let Some(fields) = schema.get_mut("properties").and_then(|fields| fields.as_object_mut())
        {
            fields.insert(name.to_owned(), json!({ "const": value }));
        }
        if let Some(required) = schema.get_mut("required").and_then(|names| names.as_array_mut()) {
            required.push(json!(name));
        }
    }
    Described { command, kind: T::KIND, schema }
}
