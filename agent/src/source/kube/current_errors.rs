//! The current errors of all watches as one list.

use std::collections::BTreeMap;

use tokio::sync::{Mutex, mpsc};

use crate::{
    model::object::{InputError, Kind},
    source::{Arrived, Event},
};

/// [`Event::SourceErrors`] replaces the errors that were sent before. So the watches, which run concurrently, send theirs
/// through this.
pub struct CurrentErrors {
    /// An async mutex, held while sending, so that a list cannot overtake a newer one.
    by_kind: Mutex<BTreeMap<Kind, Vec<InputError>>>,
    events: mpsc::Sender<Arrived>,
}

impl CurrentErrors {
    #[must_use]
    pub fn new(events: mpsc::Sender<Arrived>) -> Self {
        Self { by_kind: Mutex::default(), events }
    }

    /// Replaces the errors of one watch; sends the merged list if that changes it.
    ///
    /// # Errors
    /// When the receiver of the events is closed.
    pub async fn set(
        &self,
        kind: Kind,
        input_errors: Vec<InputError>,
    ) -> Result<(), mpsc::error::SendError<Arrived>> {
        let mut by_kind = self.by_kind.lock().await;
        if by_kind.get(&kind).map_or(&[][..], Vec::as_slice) == input_errors {
            return Ok(());
        }
        if input_errors.is_empty() {
            by_kind.remove(&kind);
        } else {
            by_kind.insert(kind, input_errors);
        }
        let all = by_kind.values().flatten().cloned().collect();
        self.events.send(Arrived::now(Event::SourceErrors(all))).await
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn input_error(message: &str) -> Vec<InputError> {
        let (object, field) = (String::new().into(), String::new());
        vec![InputError { object, field, message: message.into() }]
    }

    #[tokio::test]
    async fn lists_are_merged_and_sent_only_when_they_change() {
        let (sender, mut events) = mpsc::channel(8);
        let errors = CurrentErrors::new(sender);
        errors.set(Kind::Node, vec![]).await.unwrap();
        errors.set(Kind::Node, input_error("n")).await.unwrap();
        errors.set(Kind::Node, input_error("n")).await.unwrap();
        errors.set(Kind::Service, input_error("s")).await.unwrap();
        errors.set(Kind::Node, vec![]).await.unwrap();
        drop(errors);
        let mut sent = Vec::new();
        while let Some(Arrived { events, .. }) = events.recv().await {
            sent.extend(events);
        }
        let both = [input_error("s"), input_error("n")].concat();
        assert_eq!(sent, [input_error("n"), both, input_error("s")].map(Event::SourceErrors));
    }
}
