//! The current problems of several watches as one list.

use std::collections::BTreeMap;

use tokio::sync::{Mutex, mpsc};

use crate::{
    model::object::{Kind, Problem},
    source::{Arrived, Event},
};

/// [`Event::Trouble`] replaces what was said before, so watches that run side by side say it
/// through here.
pub struct Troubles {
    /// An async mutex, held while sending: two lists must not overtake each other.
    by_kind: Mutex<BTreeMap<Kind, Vec<Problem>>>,
    events: mpsc::Sender<Arrived>,
}

impl Troubles {
    #[must_use]
    pub fn new(events: mpsc::Sender<Arrived>) -> Self {
        Self { by_kind: Mutex::default(), events }
    }

    /// Replaces the problems of one watch; sends the merged list if that changes it.
    ///
    /// # Errors
    /// When nobody receives the events any more.
    pub async fn set(
        &self,
        kind: Kind,
        problems: Vec<Problem>,
    ) -> Result<(), mpsc::error::SendError<Arrived>> {
        let mut by_kind = self.by_kind.lock().await;
        if by_kind.get(&kind).map_or(&[][..], Vec::as_slice) == problems {
            return Ok(());
        }
        if problems.is_empty() {
            by_kind.remove(&kind);
        } else {
            by_kind.insert(kind, problems);
        }
        let all = by_kind.values().flatten().cloned().collect();
        self.events.send(Arrived::now(Event::Trouble(all))).await
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn problem(message: &str) -> Vec<Problem> {
        let (object, field) = (String::new(), String::new());
        vec![Problem { object, field, message: message.into() }]
    }

    #[tokio::test]
    async fn lists_are_merged_and_said_only_when_they_change() {
        let (sender, mut events) = mpsc::channel(8);
        let troubles = Troubles::new(sender);
        troubles.set(Kind::Node, vec![]).await.unwrap();
        troubles.set(Kind::Node, problem("n")).await.unwrap();
        troubles.set(Kind::Node, problem("n")).await.unwrap();
        troubles.set(Kind::Service, problem("s")).await.unwrap();
        troubles.set(Kind::Node, vec![]).await.unwrap();
        drop(troubles);
        let mut said = Vec::new();
        while let Some(Arrived { events, .. }) = events.recv().await {
            said.extend(events);
        }
        let both = [problem("s"), problem("n")].concat();
        assert_eq!(said, [problem("n"), both, problem("s")].map(Event::Trouble));
    }
}
