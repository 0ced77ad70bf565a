//! Watches Services, EndpointSlices, Namespaces, Nodes (this node's or all) and this node's Pods at the Kubernetes API.
//!
//! `agent/run.rs` calls [`watch`], which runs one [`Watch`](watch::Watch) for each kind. A watch uses `list.rs` and
//! `request.rs` (what is sent and received), `protocol.rs` (what it means), `retry.rs` and `watch_error.rs` (what follows
//! an error), `attempt.rs` and `backoff.rs` (when it tries again), `list_strategy.rs` and `selection.rs` (how it lists, and
//! which objects). `current_errors.rs` reports the errors of all watches as one list. `client.rs` makes the client:
//! `happy_eyeballs.rs` dials the addresses of `server_addresses.rs` with `connector.rs`.
//!
//! Invariant: an event counts as received only after it was sent to the control loop; what was not sent comes again.
//!
//! # Why not kube's `watcher`
//!
//! The watches use kube's `Client` directly, because `Api` and `kube_runtime::watcher` (5.0) differ in what matters when the
//! API server fails. WATCHER is <https://github.com/kube-rs/kube/blob/main/kube-runtime/src/watcher.rs>.
//!
//! - A watch that works again: WATCHER returns nothing for a resumed connection and for bookmarks, so a quiet watch looks
//!   broken until the next change. Here either of them ends the report of the error. (No issue is open about it.)
//! - Silence: WATCHER waits for the duration of the watch and 5 seconds, 295 by default
//!   (<https://github.com/kube-rs/kube/pull/1945>). Here it is 100 seconds, because bookmarks come once a minute.
//! - A version that is gone: when a resumed watch is refused with HTTP 410, WATCHER requests the same version again
//!   (`State::InitListed`; <https://github.com/kube-rs/kube/issues/1042>). kube-apiserver sends an ERROR event in an open
//!   watch, which WATCHER handles, but a proxy in front of it may not.
//! - An error that is no event: a `Status` on a line of its own is a decoding error
//!   (<https://github.com/kube-rs/kube/issues/1986>). Here it is the error that the server sent.
//! - The newest state: WATCHER starts a streaming list at version 0 (<https://github.com/kube-rs/kube/pull/1255>), which may
//!   be older than what the agent restored from the maps, and takes no other version
//!   (<https://github.com/kube-rs/kube/issues/1419>). Here it is the most recent version.
//! - Objects that do not decode: kube-core's `DeserializeGuard` isolates one
//!   (<https://github.com/kube-rs/kube/issues/774>), but keeps only its metadata, and copies every object into a tree of
//!   values first. `decode::lenient` uses the rest of such an object, and only such an object costs a tree.
//! - `Retry-After`: `kube::Error::Api` has no headers, and the client's own retries
//!   (<https://github.com/kube-rs/kube/pull/2007>) hide for minutes that the source fails.

mod attempt;
mod backoff;
mod client;
mod connector;
mod current_errors;
mod happy_eyeballs;
mod list;
mod list_strategy;
pub mod protocol;
mod request;
mod retry;
mod selection;
mod server_addresses;
mod watch;
mod watch_error;

use std::sync::Arc;

use ::kube::Client;
use futures::future::join_all;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::{
    client::{ClientError, Connections, check, client, config, is_at_service_address},
    connector::ConnectBypass,
    selection::Watched,
    server_addresses::ServerAddresses,
};
use self::{current_errors::CurrentErrors, selection::Selection, watch::Watch};
use super::{Arrived, decode::version_of, stats::SourceStats};
use crate::model::object::Kind;

/// Sends the objects of the API server until `stop` or until the receiver is closed: for each kind a `Replace`, then `Apply`
/// and `Delete`, and another `Replace` each time the kind had to be listed again (never an empty one in between).
///
/// `Delete` may name an object that was never applied: one that the agent does not use, after a change.
pub async fn watch(
    (client, addresses): (Client, Arc<ServerAddresses>),
    watched: Watched<'_>,
    events: mpsc::Sender<Arrived>,
    stats: Arc<SourceStats>,
    stop: CancellationToken,
) {
    stats.begin_watching();
    let shared = watch::Shared {
        client,
        addresses,
        errors: CurrentErrors::new(events.clone()),
        events,
        stats,
        reached: Notify::new(),
    };
    let watches = Kind::ALL.map(|kind| Watch::new(Selection::of(kind, watched), &shared).run());
    stop.run_until_cancelled(join_all(watches)).await;
}

/// The API group of a kind; `None` for the core group.
fn api_group(kind: Kind) -> Option<&'static str> {
    version_of(kind).split_once('/').map(|(group, _)| group)
}

/// The resource of a kind, as RBAC rules and URLs spell it.
const fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Node => "nodes",
        Kind::Namespace => "namespaces",
        Kind::Pod => "pods",
    }
}
