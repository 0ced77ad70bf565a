//! Receives all objects of a kind: in pages, or as the initial events of a watch.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ::kube::Client;

use super::{
    protocol::{self, WatchEvent},
    request::{self, Lines},
    selection::{Page, Selection},
    watch_error::WatchError,
};
use crate::{
    model::object::ObjectName,
    source::{Sourced, decode::Received, stats::KindStats},
};

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// A streaming list without an event for this long will not end: some stores behind the API (kine), and servers that
/// ignore `sendInitialEvents`, never send the bookmark at its end.
const STALL: Duration = Duration::from_secs(20);

/// A complete list.
pub(super) struct List {
    pub(super) objects: Vec<Sourced>,
    /// The resource version to watch from.
    pub(super) version: String,
    /// When the last part was read.
    pub(super) read_at: Instant,
}

/// The objects so far, by name: one may come more than once.
type Objects = HashMap<ObjectName, Sourced>;

/// Lists in pages, for servers that cannot stream lists. All pages are of the version of the first one.
pub(super) async fn in_pages(
    client: &Client,
    selection: &Selection,
    first: Page,
    stats: &KindStats,
) -> Result<List, WatchError> {
    let mut objects = Objects::new();
    let mut page = first;
    loop {
        let text = match request::page(client, selection, &page).await {
            // The objects are large: request fewer at once.
            Err(WatchError::LargePage) => {
                page = page.smaller().ok_or(WatchError::LargePage)?;
                continue;
            }
            text => text?,
        };
        stats.received();
        let received = protocol::list_page(selection.kind, &text)?;
        received.objects.into_iter().for_each(|received| put(&mut objects, received));
        match received.token {
            Some(token) => page = page.next(token),
            None => return list(objects, received.version.unwrap_or_default(), Instant::now()),
        }
    }
}

/// Receives the initial events of a watch, up to the bookmark that ends them. There may be changes among them. `decode`
/// decodes a line.
pub(super) async fn streamed(
    lines: &mut Lines,
    decode: &mut impl FnMut(&[u8]) -> Result<WatchEvent, WatchError>,
) -> Result<List, WatchError> {
    let mut objects = Objects::new();
    loop {
        let line = match lines.next(STALL).await {
            Err(WatchError::Silent(_)) => return Err(WatchError::ListStalled),
            line => line?,
        };
        match decode(line)? {
            WatchEvent::Apply(received) => put(&mut objects, received),
            WatchEvent::Delete(reference, _) => {
                objects.remove(&reference.name);
            }
            WatchEvent::Bookmark(bookmark) => {
                let annotations = bookmark.annotations.unwrap_or_default();
                if annotations.contains_key(INITIAL_EVENTS_END) {
                    return list(objects, bookmark.resource_version, lines.arrived());
                }
            }
        }
    }
}

fn put(objects: &mut Objects, Received { reference, sourced, .. }: Received) {
    match sourced {
        Some(object) => objects.insert(reference.name, object),
        None => objects.remove(&reference.name),
    };
}

fn list(objects: Objects, version: String, read_at: Instant) -> Result<List, WatchError> {
    if version.is_empty() {
        return Err(WatchError::NoVersion);
    }
    Ok(List { objects: objects.into_values().collect(), version, read_at })
}
