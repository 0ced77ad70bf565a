//! Receives a source's events as the agent would, and waits for what a test expects.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sockline::{
    model::object::{InputError, Kind},
    source::{Event, Sourced},
};
use tokio::{sync::mpsc, time::timeout};

/// Far beyond what anything here takes; only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    changes: mpsc::Receiver<Vec<Event>>,
    /// By `kind namespace/name`.
    pub(crate) objects: BTreeMap<String, Sourced>,
    /// The kinds a `Replace` came for.
    pub(crate) listed: BTreeSet<Kind>,
    pub(crate) trouble: Vec<InputError>,
    pub(crate) complete: bool,
    /// How many changes came, each of some events.
    pub(crate) received: usize,
    /// Everything that came, in order.
    pub(crate) log: Vec<Event>,
}

impl World {
    pub(crate) fn new(changes: mpsc::Receiver<Vec<Event>>) -> Self {
        Self {
            changes,
            objects: BTreeMap::new(),
            listed: BTreeSet::new(),
            trouble: Vec::new(),
            complete: true,
            received: 0,
            log: Vec::new(),
        }
    }

    /// Receives until `done`, or panics with what was seen.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            match timeout(DEADLINE, self.changes.recv()).await {
                Ok(Some(change)) => self.take(change),
                Ok(None) => panic!("the source ended before {what}; {}", self.seen()),
                Err(_) => panic!("no {what} within {DEADLINE:?}; {}", self.seen()),
            }
        }
    }

    pub(crate) async fn until_listed(&mut self) {
        self.until("list of every kind", |world| world.listed.len() == Kind::ALL.len()).await;
    }

    /// Until nothing can come any more.
    pub(crate) async fn until_end(&mut self) {
        let end = async { while self.changes.recv().await.is_some() {} };
        assert!(timeout(DEADLINE, end).await.is_ok(), "the source goes on after {DEADLINE:?}");
    }

    pub(crate) fn trouble(&self) -> String {
        self.trouble.iter().map(|problem| format!("{problem}\n")).collect()
    }

    fn take(&mut self, change: Vec<Event>) {
        self.received += 1;
        change.into_iter().for_each(|event| self.take_event(event));
    }

    fn take_event(&mut self, event: Event) {
        match event.clone() {
            Event::Replace(kind, objects) => {
                self.objects.retain(|_, object| object.reference.kind != kind);
                self.objects.extend(objects.into_iter().map(|o| (o.reference.to_string(), o)));
                self.listed.insert(kind);
            }
            Event::Apply(object) => {
                self.objects.insert(object.reference.to_string(), object);
            }
            Event::Delete(reference) => {
                self.objects.remove(&reference.to_string());
            }
            Event::SourceErrors(problems) => self.trouble = problems,
            Event::Complete(complete) => self.complete = complete,
        }
        self.log.push(event);
    }

    fn seen(&self) -> String {
        format!("objects {:?}, trouble {:?}", self.objects, self.trouble)
    }
}
