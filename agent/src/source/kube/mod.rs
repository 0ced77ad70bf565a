//! Watches Services, EndpointSlices, Namespaces, this node's Node and its Pods at the Kubernetes API.
//!
//! The loop in `watch` stands on kube's `Api`, not on its runtime `watcher`, for three things that
//! one (kube 5.0) cannot do: tell that a watch works again (it hides the resumed connection and the
//! bookmarks, so a quiet watch would look broken until the next change), notice an HTTP 410 to a
//! resumed watch (it asks for the same version for ever), and refuse to complete a list in which one
//! object could not be decoded.

mod client;
mod failure;
mod selection;
mod watch;

use std::sync::Arc;

use ::kube::{Api, Client};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::client::{SourceError, client};
use self::{selection::Selection, watch::Watch};
use super::{Event, Sourced, stats::SourceStats, troubles::Troubles};
use crate::model::object::Kind;

/// How the API's objects become the model's; `None` for one that is not ours. It is applied as each
/// object arrives and the big object is dropped there, `managedFields` and all.
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    pub service: fn(Service) -> Option<Sourced>,
    pub endpoint_slice: fn(EndpointSlice) -> Option<Sourced>,
    pub node: fn(Node) -> Option<Sourced>,
    pub namespace: fn(Namespace) -> Option<Sourced>,
    pub pod: fn(Pod) -> Option<Sourced>,
}

/// Sends what the API server says: per kind a `Replace`, then `Apply` and `Delete`, and another
/// `Replace` whenever the kind had to be listed again (never an empty one in between). It goes on
/// until `stop`, or until nobody receives.
///
/// `Delete` may name an object that was never applied: one that is not ours and changed.
pub async fn watch(
    client: Client,
    node: &str,
    convert: Convert,
    events: mpsc::Sender<Event>,
    stats: Arc<SourceStats>,
    stop: CancellationToken,
) {
    let shared = watch::Shared { troubles: Troubles::new(events.clone()), events, stats };
    let (services, slices) = (Api::all(client.clone()), Api::all(client.clone()));
    let services = Watch::new(services, Selection::services(), convert.service, &shared);
    let slices = Watch::new(slices, Selection::endpoint_slices(), convert.endpoint_slice, &shared);
    let nodes = Watch::new(Api::all(client.clone()), Selection::node(node), convert.node, &shared);
    let namespaces = Api::all(client.clone());
    let namespaces = Watch::new(namespaces, Selection::namespaces(), convert.namespace, &shared);
    let pods = Watch::new(Api::all(client), Selection::pods(node), convert.pod, &shared);
    let all = async {
        tokio::join!(services.run(), slices.run(), nodes.run(), namespaces.run(), pods.run())
    };
    stop.run_until_cancelled(all).await;
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
