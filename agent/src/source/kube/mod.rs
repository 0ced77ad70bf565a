//! Watches Services, EndpointSlices, Namespaces, this node's Node (or all) and its Pods at the Kubernetes API.
//!
//! The loop in `watch` stands on kube's `Client`, not on its `Api` and its runtime's `watcher`, for
//! what those (kube 5.0) cannot do: tell that a watch works again (the watcher hides the resumed
//! connection and the bookmarks, so a quiet watch would look broken until the next change), notice an
//! HTTP 410 to a resumed watch (it asks for the same version for ever), go on behind an object that
//! cannot be decoded, notice a server that does not answer, and see how long a server asks to be
//! left alone.

mod backoff;
mod client;
mod connector;
mod current_errors;
mod happy_eyeballs;
pub mod protocol;
mod request;
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
    client::{Connections, SourceError, check, client, config, is_at_service_address},
    connector::Unredirected,
    selection::Watched,
    server_addresses::Route,
};
use self::{current_errors::CurrentErrors, selection::Selection, watch::Watch};
use super::{Arrived, decode::version_of, stats::SourceStats};
use crate::model::object::Kind;

/// Sends what the API server says: per kind a `Replace`, then `Apply` and `Delete`, and another
/// `Replace` whenever the kind had to be listed again (never an empty one in between). It goes on
/// until `stop`, or until nobody receives.
///
/// `Delete` may name an object that was never applied: one that is not ours and changed.
pub async fn watch(
    (client, route): (Client, Arc<Route>),
    watched: Watched<'_>,
    events: mpsc::Sender<Arrived>,
    stats: Arc<SourceStats>,
    stop: CancellationToken,
) {
    stats.begin_watching();
    let shared = watch::Shared {
        client,
        route,
        current_errors: CurrentErrors::new(events.clone()),
        events,
        stats,
        back: Notify::new(),
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
