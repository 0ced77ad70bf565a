//! What the lines of a watch and the pages of a list say.

use ::kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::watch_error::Failure;
use crate::{
    model::object::{Kind, ObjectRef},
    source::decode::{Metadata, Received, receive},
};

/// What a line of a watch means for what is known.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every change is the largest one")]
pub enum Change {
    Apply(Received),
    /// With the version of the deletion.
    Delete(ObjectRef, String),
    Bookmark(Metadata),
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    pub objects: Vec<Received>,
    /// Opaque; of the whole list.
    pub version: Option<String>,
    /// What to ask for the next page with.
    pub token: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    what: What,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum What {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// The objects stay text until each is decoded by itself.
#[derive(Deserialize)]
struct PageText<'a> {
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// Decodes one line of a watch on a kind.
///
/// # Errors
/// What is no event of a watch, and an event that says that the watch failed. An object that cannot be
/// read is none: it is told in its own problems.
pub fn change(kind: Kind, line: &[u8]) -> Result<Change, Failure> {
    let garbage = |error| Failure::Garbage(format!("{error} in a watch"));
    let Line { what, object } = match serde_json::from_slice(line) {
        Ok(line) => line,
        // Some refusals come as they are, without an event around them.
        Err(error) => {
            return Err(match serde_json::from_slice::<Status>(line) {
                Ok(status) if status.code != 0 => Failure::Event(Box::new(status)),
                _ => garbage(error),
            });
        }
    };
    Ok(match what {
        What::Added | What::Modified => Change::Apply(receive(kind, object)),
        What::Deleted => match Metadata::of(object) {
            Ok(metadata) => Change::Delete(metadata.reference(kind), metadata.resource_version),
            Err(_) => {
                let Received { reference, version, .. } = receive(kind, object);
                Change::Delete(reference, version)
            }
        },
        What::Bookmark => Change::Bookmark(Metadata::of(object).map_err(garbage)?),
        What::Error => {
            let status = serde_json::from_str(object.get()).map_err(garbage)?;
            return Err(Failure::Event(Box::new(status)));
        }
    })
}

/// Decodes a page of a list of a kind.
///
/// # Errors
/// What is no list. An object that cannot be read is told in its own problems.
pub fn page(kind: Kind, text: &[u8]) -> Result<Page, Failure> {
    let page: PageText = serde_json::from_slice(text)
        .map_err(|error| Failure::Garbage(format!("{error} in a page of a list")))?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Page {
        objects: page.items.into_iter().flatten().map(|item| receive(kind, item)).collect(),
        version: given(page.metadata.resource_version),
        token: given(page.metadata.r#continue),
    })
}
