//! One watch as a state machine: what it sends next, over any transport.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Answer, Api, Cut, Fault, Refusal, Resource, Scripted, State, fault::Faults, list,
    request::Asked, selector::Selector, store::Change,
};

/// How often a server sends bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Without `timeoutSeconds`, a server ends a watch after half an hour at the earliest.
const LONGEST: Duration = Duration::from_secs(1800);
/// How many bookmarks a storm has, after the pending events.
const STORM: usize = 20;
/// The time between two pieces of a slow watch.
const PIECES: Duration = Duration::from_millis(5);
/// The bytes in a piece of a slow watch.
const PIECE: usize = 97;

/// What a watch does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It sends this.
    Send(Vec<u8>),
    /// It ends in order.
    End,
    /// Its connection breaks.
    Break,
}

/// An open watch.
pub struct Watch {
    api: Api,
    resource: Resource,
    selector: Selector,
    /// Events up to this version were sent.
    position: u64,
    /// Lines to send, then perhaps an end.
    queue: VecDeque<String>,
    end: Option<Step>,
    wants_bookmarks: bool,
    last_bookmark: Duration,
    ends_at: Duration,
    /// For good.
    silent: bool,
    /// A scripted watch: it sends only what is in the queue.
    scripted: bool,
    fault: Option<Fault>,
    next_piece: Duration,
    wake_at: Duration,
    /// How many of the lines for all watches this one has sent.
    lifts: u64,
    cuts: u64,
    said: usize,
    bookmarks: u64,
    repeats: u64,
}

impl Watch {
    /// Opens it for a request, or refuses that.
    pub(super) fn open(
        api: Api,
        state: &mut State,
        asked: &Asked,
        resource: Resource,
        fault: Option<Fault>,
    ) -> Answer {
        match Self::try_open(api, state, asked, resource, fault) {
            Ok(watch) => Answer::Watch(Box::new(watch)),
            Err(refusal) => refusal.answer(),
        }
    }

    fn try_open(
        api: Api,
        state: &mut State,
        asked: &Asked,
        resource: Resource,
        fault: Option<Fault>,
    ) -> Result<Self, Refusal> {
        let faults = state.faults.entry(resource).or_default();
        let seconds = asked.get("timeoutSeconds").parse().map(Duration::from_secs);
        let mut watch = Self {
            api,
            resource,
            selector: Selector::of(asked, resource)?,
            position: 0,
            queue: VecDeque::new(),
            end: None,
            wants_bookmarks: asked.get("allowWatchBookmarks") == "true",
            last_bookmark: Duration::ZERO,
            ends_at: seconds.unwrap_or(LONGEST),
            silent: false,
            scripted: false,
            fault: None,
            next_piece: Duration::ZERO,
            wake_at: Duration::MAX,
            lifts: faults.lifts,
            cuts: faults.cuts,
            said: faults.said.len(),
            bookmarks: faults.bookmarks,
            repeats: faults.repeats,
        };
        let store = &state.store;
        if let Some(Fault::Scripted(Scripted::Lines(lines, end))) = fault {
            watch.scripted = true;
            watch.queue.push_back(lines);
            watch.cut(end, None);
            return Ok(watch);
        }
        if asked.get("sendInitialEvents") == "true" {
            if asked.get("resourceVersionMatch") != "NotOlderThan" {
                return Err(Refusal::no_match());
            }
            let (version, caught_up) = match fault {
                Some(Fault::Stale(version)) => (version.max(store.compacted()), None),
                Some(Fault::CatchingUp(version)) => {
                    let now = list::fresh_enough(store, asked)?;
                    (version.max(store.compacted()), Some(now))
                }
                _ => (list::fresh_enough(store, asked)?, None),
            };
            let objects = store.at(resource, version).unwrap_or_default();
            for object in objects.values().filter(|object| watch.selector.selects(object)) {
                watch.queue.push_back(event("ADDED", object));
            }
            watch.position = version;
            if let Some(now) = caught_up {
                for change in store.since(resource, version) {
                    watch.queue.extend(line(change, &watch.selector));
                }
                watch.position = now;
            }
            match fault {
                Some(Fault::EndlessList) => {}
                Some(Fault::BrokenList) => {
                    watch.queue.truncate(watch.queue.len().div_ceil(2));
                    watch.end = Some(Step::Break);
                }
                _ => watch.queue.push_back(watch.end_of_list()),
            }
        } else {
            let text = asked.get("resourceVersion");
            let version: u64 = text.parse().map_err(|_| Refusal::bad_version(text))?;
            watch.position = version;
            if version < store.compacted() || matches!(fault, Some(Fault::GoneEvent)) {
                watch.queue.push_back(Refusal::expired(text, store.compacted()).event());
                watch.end = Some(Step::End);
            }
        }
        watch.fault = fault;
        Ok(watch)
    }

    /// What it does next, `now` after its start. Pending until the waker is called, or until
    /// [`Self::wake_at`].
    pub fn poll(&mut self, context: &mut Context<'_>, now: Duration) -> Poll<Step> {
        let api = self.api.clone();
        let mut state = api.lock();
        self.look(&mut state, now);
        let held = self.end.is_none() && (self.silent || self.faults(&mut state).held);
        if !held
            && now >= self.next_piece
            && let Some(step) = self.step(now)
        {
            return Poll::Ready(step);
        }
        self.wake_at = if held || self.scripted {
            Duration::MAX
        } else if self.queue.is_empty() {
            let silent = !self.wants_bookmarks || matches!(self.fault, Some(Fault::NoBookmarks));
            let bookmark = if silent { self.ends_at } else { self.last_bookmark + BOOKMARKS };
            bookmark.min(self.ends_at)
        } else {
            self.next_piece
        };
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }

    /// When it does something by itself, as of the last [`Self::poll`].
    pub const fn wake_at(&self) -> Duration {
        self.wake_at
    }

    fn step(&mut self, now: Duration) -> Option<Step> {
        let Some(line) = self.queue.pop_front() else { return self.end.take() };
        let mut bytes = line.into_bytes();
        if matches!(self.fault, Some(Fault::Trickle)) {
            self.next_piece = now + PIECES;
            if bytes.len() > PIECE {
                let rest = bytes.split_off(PIECE);
                self.queue.push_front(String::from_utf8_lossy(&rest).into_owned());
            }
        } else {
            // As one piece, like a busy server.
            for line in self.queue.drain(..) {
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        Some(Step::Send(bytes))
    }

    fn faults<'a>(&self, state: &'a mut State) -> &'a mut Faults {
        state.faults.entry(self.resource).or_default()
    }

    /// Puts pending events into the queue.
    fn look(&mut self, state: &mut State, now: Duration) {
        if self.end.is_some() {
            return;
        }
        let (store, faults) = (&state.store, state.faults.entry(self.resource).or_default());
        if faults.cuts > self.cuts {
            self.cuts = faults.cuts;
            self.cut(faults.cut, store.since(self.resource, self.position).next());
            return;
        }
        if faults.lifts > self.lifts {
            (self.lifts, self.fault) = (faults.lifts, None);
        }
        if self.scripted || self.silent || faults.held || !self.queue.is_empty() {
            return;
        }
        if self.position < store.compacted() {
            self.cut(Some(Cut::Expired), None);
            return;
        }
        for change in store.since(self.resource, self.position) {
            self.queue.extend(line(change, &self.selector));
        }
        self.position = store.version().max(self.position);
        if faults.repeats > self.repeats {
            self.repeats = faults.repeats;
            let all: Vec<&Change> = store.since(self.resource, 0).collect();
            for change in &all[all.len().saturating_sub(faults.repeat)..] {
                self.queue.extend(line(change, &self.selector));
            }
        }
        self.queue.extend(faults.said[self.said..].iter().cloned());
        self.said = faults.said.len();
        let storms = matches!(self.fault, Some(Fault::BookmarkStorm));
        let silent = !self.wants_bookmarks || matches!(self.fault, Some(Fault::NoBookmarks));
        let due = now >= self.last_bookmark + BOOKMARKS || faults.bookmarks > self.bookmarks;
        if due && !silent {
            (self.last_bookmark, self.bookmarks) = (now, faults.bookmarks);
            self.queue.push_back(self.bookmark());
        }
        if storms && !self.queue.is_empty() {
            self.queue.extend(std::iter::repeat_n(self.bookmark(), STORM));
        }
        if now >= self.ends_at {
            self.end = Some(Step::End);
        }
    }

    /// Ends it, or breaks it as the fault says. `next` would have been sent next.
    fn cut(&mut self, cut: Option<Cut>, next: Option<&Change>) {
        if matches!(cut, Some(Cut::Between | Cut::Within)) && !self.scripted {
            // Events that were not sent yet are lost.
            self.queue.clear();
        }
        let selector = &self.selector;
        let lost = next.and_then(|change| Some((change.version, line(change, selector)?)));
        match cut {
            None => {}
            Some(Cut::End) => self.end = Some(Step::End),
            Some(Cut::Between) => self.end = Some(Step::Break),
            Some(Cut::Within) => {
                if !self.scripted {
                    let line = lost.map_or_else(|| self.bookmark(), |(_, line)| line);
                    self.queue.push_back(line[..line.len() / 2].to_owned());
                }
                self.end = Some(Step::Break);
            }
            Some(Cut::Expired) => {
                let asked = self.position.to_string();
                self.queue.push_back(Refusal::expired(&asked, self.position + 1).event());
                self.end = Some(Step::End);
            }
            Some(Cut::Silence) => self.silent = true,
            Some(Cut::Corrupt) => {
                if let Some((version, line)) = lost {
                    self.queue.push_back(format!("{}\n", &line[..line.len() / 2]));
                    self.position = version;
                }
            }
        }
    }

    /// A bookmark at the watch's version.
    fn bookmark(&self) -> String {
        event("BOOKMARK", &self.position_object())
    }

    /// The bookmark at the end of a streaming list.
    fn end_of_list(&self) -> String {
        let mut object = self.position_object();
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        event("BOOKMARK", &object)
    }

    /// An object of which only the version counts.
    fn position_object(&self) -> Value {
        let (api_version, kind) = self.resource.kind();
        let metadata = json!({"resourceVersion": self.position.to_string()});
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    }
}

/// How a watch with a selector sees a change: an object that enters the selection is added, one that leaves
/// it is deleted.
fn line(change: &Change, selector: &Selector) -> Option<String> {
    let selected = |object: &Option<std::sync::Arc<Value>>| {
        object.as_ref().is_some_and(|object| selector.selects(object))
    };
    match (selected(&change.before), selected(&change.after)) {
        (false, true) => change.after.as_ref().map(|object| event("ADDED", object)),
        (true, true) => change.after.as_ref().map(|object| event("MODIFIED", object)),
        (true, false) => {
            // As it was, with the version of its end.
            let mut object = change.before.as_ref().map(|object| (**object).clone())?;
            object["metadata"]["resourceVersion"] = json!(change.version.to_string());
            Some(event("DELETED", &object))
        }
        (false, false) => None,
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
