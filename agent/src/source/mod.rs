//! Where objects come from: a folder of manifests, or the Kubernetes API.
//!
//! [`kube`] watches the API server, [`manifests`] reads a folder. Both use [`decode`], which turns JSON into the model's
//! objects, and send [`Arrived`] to the control loop.

pub mod decode;
pub mod kube;
pub mod manifests;
pub mod stats;

use std::time::Instant;

pub use self::{
    kube::{ClientError, ConnectBypass, Connections, ServerAddresses, client, config},
    stats::{SourceStats, WatchState},
};
pub use crate::model::event::{Completeness, Event, Sourced};

/// Changes, with the time at which the source read them, which may be long before they are handled.
#[derive(Debug)]
pub struct Arrived {
    /// In order. One sync programs all of them.
    pub events: Vec<Event>,
    pub at: Instant,
}

impl Arrived {
    /// One event that was read now.
    #[must_use]
    pub fn now(event: Event) -> Self {
        Self { events: vec![event], at: Instant::now() }
    }
}
