//! What happens to connections, live: events from the kernel, with names, for all watchers.
//!
//! The agent's `run` starts [`Hub::run`] as a task. The admin socket calls [`Watchers::subscribe`] for each client of
//! `POST /events`, and `sockline watch` reads the documents.
//!
//! - `document`: the documents, and which events a client wants.
//! - `hub`: the task. It switches events on while there is a watcher, and sends each watcher what it wants.
//! - `watcher`: one watcher, with a queue of limited size; `queue` is its client's side.
//! - `names`: which service port, and which client, an event is about.
//!
//! Invariants: a watcher that does not read delays no other one. What it loses is counted, and it is disconnected
//! after a time, with the reason if its connection still accepts data. Without watchers, programs write no events.

mod document;
mod hub;
mod names;
mod queue;
mod watcher;

pub use self::{
    document::{
        Client, ConnectionEnd, ConnectionEvent, EndReason, Endpoint, EventFilter, EventLosses,
        EventType, Process, WatchEnd, Why,
    },
    hub::Hub,
    watcher::{Ends, READ_TIMEOUT, SubscribeError, Subscription, Watchers},
};
