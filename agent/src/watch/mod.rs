//! What happens to connections, live: events from the kernel, with names, for all who watch.
//!
//! The agent's `run` starts [`Hub::run`] as a task. The admin socket calls [`Watchers::subscribe`] for each client of
//! `POST /events`, and `sockline watch` reads the documents.
//!
//! - `document`: the documents, and which events a client wants.
//! - `hub`: the task. It switches events on while anybody watches, and sends each watcher what it wants.
//! - `watcher`: the queue of one watcher, of limited size.
//! - `names`: which service port, and which pod, an event is about.
//!
//! Invariants: a watcher that does not read delays nobody, what it loses is counted, and it is ended after a time. Who is
//! ended gets the reason, as far as its connection takes it. Without watchers, programs write no events.

mod document;
mod hub;
mod names;
mod watcher;

pub use self::{
    document::{
        Client, ConnectionEnd, ConnectionEvent, EndReason, Endpoint, EventFilter, EventLosses,
        EventType, Process, WatchEnd, Why,
    },
    hub::Hub,
    names::PodQuery,
    watcher::{Ends, READ_TIMEOUT, SubscribeError, Subscription, Watchers},
};
