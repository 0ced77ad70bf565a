//! Counters of what a source received.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::model::object::Kind;

/// What the watches counted since the agent started. Each number only grows.
#[derive(Debug, Default)]
pub struct SourceStats {
    by_kind: [KindStats; Kind::ALL.len()],
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
}

impl SourceStats {
    #[must_use]
    pub fn kind(&self, kind: Kind) -> &KindStats {
        &self.by_kind[kind as usize]
    }
}

/// Adds one. The counters order nothing, so relaxed is enough.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
