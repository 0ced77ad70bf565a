//! The event decoder: what an API server sends.
//!
//! The first byte says which kind was asked for and whether the rest is a page or the lines of a watch.

use sockline::{
    model::{event::Event, index::Index, object::Kind},
    source::{
        decode::Received,
        kube::protocol::{self, ListPage, WatchEvent},
    },
};

use crate::{fixture, invariants};

/// Decodes it, takes it in and plans.
pub fn run(data: &[u8]) {
    let Some((&what, text)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(what >> 1) % Kind::ALL.len()];
    let mut index = Index::new("node-a");
    if what & 1 == 0 {
        if let Ok(ListPage { objects, .. }) = protocol::list_page(kind, text) {
            objects.iter().for_each(|received| check(kind, received));
            let objects = objects.into_iter().filter_map(|received| received.sourced).collect();
            index.apply(Event::Replace(kind, objects));
        }
    } else {
        for line in text.split(|byte| *byte == b'\n') {
            match protocol::watch_event(kind, line) {
                Ok(WatchEvent::Apply(received)) => {
                    check(kind, &received);
                    index.apply(match received {
                        Received { sourced: Some(object), .. } => Event::Apply(object),
                        Received { reference, .. } => Event::Delete(reference),
                    });
                }
                Ok(WatchEvent::Delete(reference, _)) => {
                    assert_eq!(reference.kind, kind);
                    index.apply(Event::Delete(reference));
                }
                Ok(WatchEvent::Bookmark(_)) => {}
                Err(failure) => drop(failure.to_string()),
            }
        }
    }
    invariants::plan(&index.plan());
    invariants::input_errors(&index.input_errors());
}

fn check(kind: Kind, received: &Received) {
    assert_eq!(received.reference.kind, kind);
    if let Some(sourced) = &received.sourced {
        assert_eq!(sourced.reference, received.reference);
        invariants::sourced(sourced);
    }
}

/// What was recorded of a real server, whole and in lines.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, _) in Kind::ALL.iter().enumerate() {
        let kind = u8::try_from(kind << 1).expect("there are few kinds");
        for file in ["watch", "watch-list", "watch-expired"] {
            let text = fixture(&format!("wire/{file}.jsonl"));
            for line in text.lines() {
                seeds.push([&[kind | 1], line.as_bytes()].concat());
            }
        }
        for file in ["list-page-1", "bad-continue"] {
            seeds.push([&[kind], fixture(&format!("wire/{file}.json")).as_bytes()].concat());
        }
    }
    seeds
}
