//! One attempt to list and watch, and how far it came.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::backoff::watch_seconds;

/// A watch may end this much before the requested time and still end in order.
const EARLY: Duration = Duration::from_secs(5);

/// What an attempt did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    PagedList,
    StreamingList,
    Watch,
}

/// How an attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    List,
    /// From the version that an earlier attempt received.
    Resume,
}

/// One attempt: a list if it is needed, then a watch.
#[derive(Debug)]
pub(super) struct Attempt {
    began: Instant,
    /// How long the server should keep the watch open.
    pub(super) watch_seconds: u32,
    pub(super) start: Start,
    pub(super) phase: Phase,
    /// An event was received.
    pub(super) has_events: bool,
    /// The watch works.
    pub(super) is_working: bool,
    /// The server that answered.
    pub(super) server: Option<SocketAddr>,
}

impl Attempt {
    pub(super) fn new(start: Start, phase: Phase) -> Self {
        Self {
            began: Instant::now(),
            watch_seconds: watch_seconds(),
            start,
            phase,
            has_events: false,
            is_working: false,
            server: None,
        }
    }

    pub(super) fn lasted(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the server kept the watch open as long as requested.
    pub(super) fn lasted_in_full(&self) -> bool {
        self.lasted() + EARLY >= Duration::from_secs(self.watch_seconds.into())
    }
}
