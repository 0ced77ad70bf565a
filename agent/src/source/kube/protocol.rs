//! Decodes the lines of a watch and the pages of a list.

use ::kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::watch_error::WatchError;
use crate::{
    model::object::{Kind, ObjectRef},
    source::decode::{Metadata, Received, receive},
};

/// An event of a watch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every change is the largest one")]
pub enum WatchEvent {
    Apply(Received),
    /// With the version of the deletion.
    Delete(ObjectRef, String),
    Bookmark(Metadata),
}

/// A page of a list.
#[derive(Debug)]
pub struct ListPage {
    pub objects: Vec<Received>,
    /// Opaque; of the whole list.
    pub version: Option<String>,
    /// The `continue` token for the next page.
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

/// The objects stay text, so that each can be decoded by itself.
#[derive(Deserialize)]
struct ListPageText<'a> {
    metadata: ListPageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListPageMetadata {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// Decodes one line of a watch on a kind.
///
/// # Errors
/// When the line is no event, or an ERROR event. An object that cannot be decoded is no error: it has its own.
pub fn watch_event(kind: Kind, line: &[u8]) -> Result<WatchEvent, WatchError> {
    let garbage = |error| WatchError::Garbage(format!("{error} in a watch"));
    let Line { what, object } = match serde_json::from_slice(line) {
        Ok(line) => line,
        // Some errors come as a `Status` without an event around it.
        Err(error) => {
            return Err(match serde_json::from_slice::<Status>(line) {
                Ok(status) if status.code != 0 => WatchError::Event(Box::new(status)),
                _ => garbage(error),
            });
        }
    };
    Ok(match what {
        What::Added | What::Modified => WatchEvent::Apply(receive(kind, object)),
        What::Deleted => match Metadata::of(object) {
            Ok(metadata) => WatchEvent::Delete(metadata.reference(kind), metadata.resource_version),
            Err(_) => {
                let Received { reference, version, .. } = receive(kind, object);
                WatchEvent::Delete(reference, version)
            }
        },
        What::Bookmark => WatchEvent::Bookmark(Metadata::of(object).map_err(garbage)?),
        What::Error => {
            let status = serde_json::from_str(object.get()).map_err(garbage)?;
            return Err(WatchError::Event(Box::new(status)));
        }
    })
}

/// Decodes a page of a list of a kind.
///
/// # Errors
/// When it is no list. An object that cannot be decoded is no error: it has its own.
pub fn list_page(kind: Kind, text: &[u8]) -> Result<ListPage, WatchError> {
    let page: ListPageText = serde_json::from_slice(text)
        .map_err(|error| WatchError::Garbage(format!("{error} in a page of a list")))?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(ListPage {
        objects: page.items.into_iter().flatten().map(|item| receive(kind, item)).collect(),
        version: given(page.metadata.resource_version),
        token: given(page.metadata.r#continue),
    })
}
