//! Counters of what the source received, and when the API server last sent something.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::object::Kind;

/// Counters of all watches since the agent started.
#[derive(Debug, Default)]
pub struct SourceStats {
    by_kind: [KindStats; Kind::ALL.len()],
    watched: AtomicBool,
}

/// The counters of one kind.
#[derive(Debug, Default)]
pub struct KindStats {
    /// Objects added or changed after the first list.
    pub applied: AtomicU64,
    /// Objects deleted, or changed so that the agent does not use them any more.
    pub deleted: AtomicU64,
    /// Complete lists received; the first one counts.
    pub relisted: AtomicU64,
    /// Requests and watches that failed; the regular end of a watch does not count.
    pub errors: AtomicU64,
    connected: AtomicBool,
    last_received: Mutex<Option<Instant>>,
}

/// The state of one kind's watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WatchState {
    /// The kind of the objects, as the Kubernetes API spells it.
    pub kind: String,
    /// Whether the watch is open.
    pub connected: bool,
    /// When the API server last sent something about this kind: an event, a bookmark, a page of a list. It does so at
    /// least once a minute. Null before the first time.
    pub last_event_time: Option<Timestamp>,
}

impl WatchState {
    /// Since the last event.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let age = Timestamp::now().duration_since(self.last_event_time?);
        // The clock may have been set back.
        Some(age.try_into().unwrap_or_default())
    }
}

impl SourceStats {
    #[must_use]
    pub fn kind(&self, kind: Kind) -> &KindStats {
        &self.by_kind[kind as usize]
    }

    /// The source is an API server.
    pub(super) fn begin_watching(&self) {
        self.watched.store(true, Relaxed);
    }

    /// Whether the source is an API server.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watched.load(Relaxed)
    }

    /// The state of each kind's watch; empty if the source is a folder.
    #[must_use]
    pub fn watches(&self) -> Vec<WatchState> {
        let kinds = Kind::ALL.into_iter().filter(|_| self.is_watching());
        kinds
            .map(|kind| {
                let stats = self.kind(kind);
                WatchState {
                    kind: kind.as_str().to_owned(),
                    connected: stats.connected.load(Relaxed),
                    last_event_time: stats
                        .age()
                        .and_then(|age| Timestamp::now().checked_sub(age).ok()),
                }
            })
            .collect()
    }
}

impl KindStats {
    /// Time since the API server last sent something about this kind.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.last_received.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    pub(super) fn received(&self) {
        *self.last_received.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn connected(&self) {
        self.connected.store(true, Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connected.store(false, Relaxed);
    }
}

/// Adds one. Nothing depends on the order of counters, so relaxed is enough.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
