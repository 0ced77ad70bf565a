//! The events of a running source, and the state that they add up to.

use std::{ops::Deref, time::Duration};

use sockline::source::Event;
use tokio::{sync::mpsc, time::timeout};

use super::source_state::SourceState;

/// Far beyond what anything here takes; only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Receives them as the agent would, and waits for what a test expects. Dereferences to the [`SourceState`].
pub(crate) struct SourceEvents {
    events: mpsc::Receiver<Vec<Event>>,
    state: SourceState,
    /// How many changes came, each of some events.
    pub(crate) changes: usize,
}

impl Deref for SourceEvents {
    type Target = SourceState;

    fn deref(&self) -> &SourceState {
        &self.state
    }
}

impl SourceEvents {
    pub(crate) fn new(events: mpsc::Receiver<Vec<Event>>) -> Self {
        Self { events, state: SourceState::empty(), changes: 0 }
    }

    /// Receives until `done`, or panics with what was seen.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&SourceState) -> bool) {
        while !done(&self.state) {
            match timeout(DEADLINE, self.events.recv()).await {
                Ok(Some(change)) => self.take(change),
                Ok(None) => panic!("the source ended before {what}; {}", self.seen()),
                Err(_) => panic!("no {what} within {DEADLINE:?}; {}", self.seen()),
            }
        }
    }

    pub(crate) async fn until_listed(&mut self) {
        self.until("list of every kind", SourceState::has_all_lists).await;
    }

    /// Until nothing can come any more.
    pub(crate) async fn until_end(&mut self) {
        let end = async { while self.events.recv().await.is_some() {} };
        assert!(timeout(DEADLINE, end).await.is_ok(), "the source goes on after {DEADLINE:?}");
    }

    fn take(&mut self, change: Vec<Event>) {
        self.changes += 1;
        change.into_iter().for_each(|event| self.state.apply(event));
    }

    fn seen(&self) -> String {
        format!("objects {:?}, errors {:?}", self.objects, self.errors)
    }
}
