//! Counters of what a source received, and how long ago it last heard from the API server.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::model::object::Kind;

/// What the watches counted since the agent started. Each number only grows.
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
    /// Objects deleted, or changed into ones that are not ours.
    pub deleted: AtomicU64,
    /// Complete lists received; the first one counts.
    pub relisted: AtomicU64,
    /// Requests refused and watches broken; a watch that the server ends in order is none.
    pub errors: AtomicU64,
    connected: AtomicBool,
    last_word: Mutex<Option<Instant>>,
}

/// How the watch of one kind stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchState {
    pub kind: String,
    /// A watch is open.
    pub connected: bool,
    /// Since the API server last said anything about this kind: an event, a bookmark, a page of a
    /// list. It says something at least once a minute. `None` before the first word.
    pub age_seconds: Option<f64>,
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

    /// How each kind's watch stands; empty when the source is a folder.
    #[must_use]
    pub fn watches(&self) -> Vec<WatchState> {
        let kinds = Kind::ALL.into_iter().filter(|_| self.is_watching());
        kinds
            .map(|kind| {
                let stats = self.kind(kind);
                WatchState {
                    kind: kind.as_str().to_owned(),
                    connected: stats.connected.load(Relaxed),
                    age_seconds: stats.age().map(|age| age.as_secs_f64()),
                }
            })
            .collect()
    }
}

impl KindStats {
    /// Since the API server's last word about this kind.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.last_word.lock().unwrap_or_else(PoisonError::into_inner).map(|word| word.elapsed())
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    pub(super) fn heard(&self) {
        *self.last_word.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }
}

/// Adds one. The counters order nothing, so relaxed is enough.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
