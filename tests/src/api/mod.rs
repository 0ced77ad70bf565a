//! A stand-in for the Kubernetes API server, as far as an agent uses it: lists in pages, watches, streaming
//! lists, and their faults.
//!
//! [`Api`] is the cluster's state with its history and the server's answers, without sockets or clocks.
//! [`Server`] serves it on a TCP port; a test may also call it directly ([`Api::answer`]). The formats are
//! those of `tests/fixtures/wire`, recorded from kube-apiserver 1.36, and the rules those of
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.

mod fault;
mod list;
mod request;
mod resource;
mod selector;
mod server;
mod status;
mod store;
mod token;
mod watch;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use serde_json::Value;

use self::{fault::Faults, store::Store};
pub use self::{
    fault::{Cut, Fault},
    request::Asked,
    resource::Resource,
    server::Server,
    status::Refusal,
    watch::{Step, Watch},
};

/// A cluster's state and the server's answers. Clones share the same state.
#[derive(Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    store: Store,
    /// The limit of pages, whatever the request asks for.
    longest_page: Option<usize>,
    faults: HashMap<Resource, Faults>,
    asked: Vec<Asked>,
    /// Wakers of watches that wait for an event.
    wakers: Vec<Waker>,
}

/// What the server answers to one request.
pub enum Answer {
    /// A whole body with its status.
    Whole { status: u16, retry_after: Option<u32>, body: String },
    /// An open watch.
    Watch(Box<Watch>),
    /// It never answers.
    Hang,
    /// The connection is closed.
    Close,
}

/// A prepared answer: recorded, or one that no server should give.
#[derive(Clone, Debug)]
pub enum Scripted {
    Whole(u16, String),
    /// These bytes as a watch, then this end of it.
    Lines(String, Option<Cut>),
}

impl Api {
    /// Creates or replaces an object.
    pub fn apply(&self, object: &Value) {
        self.change(|state| state.store.apply(object));
    }

    /// Deletes an object, by its kind, namespace and name; nothing happens if there is none.
    pub fn delete(&self, object: &Value) {
        self.change(|state| state.store.delete(object));
    }

    /// All objects of a resource that exist, selected or not.
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        self.lock().store.objects(resource)
    }

    /// The resource version of the last change.
    pub fn version(&self) -> u64 {
        self.lock().store.version()
    }

    /// Forgets the history up to now: watches of older versions have expired.
    pub fn compact(&self) {
        self.change(|state| state.store.compact());
    }

    /// Makes pages shorter than requested, as the server may.
    pub fn limit_pages(&self, longest: usize) {
        self.change(|state| state.longest_page = Some(longest.max(1)));
    }

    /// Sets the fault of a resource until [`Self::lift`], in place of an earlier one.
    pub fn fault(&self, resource: Resource, fault: Fault) {
        self.change(|state| state.faults.entry(resource).or_default().standing = Some(fault));
    }

    /// Sets a fault for each of the next requests for a resource.
    pub fn fault_once(&self, resource: Resource, fault: Fault) {
        self.change(|state| state.faults.entry(resource).or_default().once.push_back(fault));
    }

    /// Answers the next requests for a resource with these, one each.
    pub fn script(&self, resource: Resource, answer: Scripted) {
        self.fault_once(resource, Fault::Scripted(answer));
    }

    /// Lifts the faults of a resource: later requests are answered, and watches continue normally. A
    /// streaming list without an end stays so.
    pub fn lift(&self, resource: Resource) {
        self.change(|state| {
            let faults = state.faults.entry(resource).or_default();
            (faults.standing, faults.held) = (None, false);
            faults.lifts += 1;
            faults.once.clear();
        });
    }

    /// Breaks the open watches of a resource.
    pub fn cut(&self, resource: Resource, cut: Cut) {
        self.change(|state| {
            let faults = state.faults.entry(resource).or_default();
            faults.cuts += 1;
            faults.cut = Some(cut);
        });
    }

    /// Holds the events of a resource: open and new watches send nothing until [`Self::release`].
    pub fn hold(&self, resource: Resource) {
        self.change(|state| state.faults.entry(resource).or_default().held = true);
    }

    /// Sends the events of a resource again, first those that were held.
    pub fn release(&self, resource: Resource) {
        self.change(|state| state.faults.entry(resource).or_default().held = false);
    }

    /// Sends these lines on the open watches of a resource, after their pending events.
    pub fn say(&self, resource: Resource, lines: &str) {
        self.change(|state| {
            state.faults.entry(resource).or_default().said.push(lines.into());
        });
    }

    /// Sends a bookmark on the open watches of a resource.
    pub fn bookmark(&self, resource: Resource) {
        self.change(|state| state.faults.entry(resource).or_default().bookmarks += 1);
    }

    /// Sends the last events of a resource again, in their order.
    pub fn repeat(&self, resource: Resource, events: usize) {
        self.change(|state| {
            let faults = state.faults.entry(resource).or_default();
            (faults.repeats, faults.repeat) = (faults.repeats + 1, events);
        });
    }

    /// The requests for one resource so far.
    pub fn asked(&self, resource: Resource) -> Vec<Asked> {
        self.lock().asked.iter().filter(|asked| asked.resource == Some(resource)).cloned().collect()
    }

    /// How many requests for a resource began with the whole list, open or not.
    pub fn lists(&self, resource: Resource) -> usize {
        self.asked(resource).iter().filter(|asked| asked.is_first_of_list()).count()
    }

    /// Answers a GET of `target` (path and query) with these headers; `at` is the time of it, from
    /// any beginning.
    pub fn answer(&self, target: &str, headers: &[(String, String)], at: Duration) -> Answer {
        let asked = Asked::parse(target, headers, at);
        let mut state = self.lock();
        state.asked.push(asked.clone());
        let Some(resource) = asked.resource else {
            return Refusal::not_found().answer();
        };
        let faults = state.faults.entry(resource).or_default();
        let fault = faults.once.pop_front().or_else(|| faults.standing.clone());
        let streams = asked.get("sendInitialEvents") == "true";
        let resumes = asked.is_watch() && !streams;
        match fault {
            Some(Fault::Hang) => return Answer::Hang,
            Some(Fault::Close) => return Answer::Close,
            Some(Fault::Refuse(refusal)) => return refusal.answer(),
            Some(Fault::Gone) if resumes => {
                return Refusal::expired(asked.get("resourceVersion"), state.store.version())
                    .answer();
            }
            Some(Fault::NoStreamingLists) if streams => {
                return Refusal::no_streaming_lists().answer();
            }
            Some(Fault::NoFieldSelector) if !asked.get("fieldSelector").is_empty() => {
                return Refusal::no_field_selector(asked.get("fieldSelector"), resource).answer();
            }
            Some(Fault::Scripted(Scripted::Whole(status, body))) => {
                return Answer::Whole { status, retry_after: None, body };
            }
            _ => {}
        }
        if asked.is_watch() {
            Watch::open(self.clone(), &mut state, &asked, resource, fault)
        } else {
            list::answer(&state, &asked, resource, fault.as_ref())
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let wakers: Vec<Waker> = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock must not hide the failure of the test.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests that are refused for a while, in the order they come.
type Once = VecDeque<Fault>;
