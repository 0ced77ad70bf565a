//! Commands from the admin socket to the control loop, which is the only writer of the maps.

use tokio::sync::oneshot;

use crate::{
    dataplane::Drift,
    model::probe_service::{Listeners, ProbeService},
};

/// A command. The reply is a result or the reason for a refusal.
#[derive(Debug)]
pub enum Command {
    /// Adds a probe service to the maps, until it is removed. If the client no longer waits for the reply,
    /// the service is removed at once.
    AddProbeService {
        listeners: Listeners,
        reply: oneshot::Sender<Result<ProbeService, String>>,
    },
    RemoveProbeService(ProbeService),
    /// Compares the plan with the maps, and changes nothing.
    FindDrift {
        reply: oneshot::Sender<Result<Drift, String>>,
    },
}
