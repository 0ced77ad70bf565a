//! Where objects come from: a folder of manifests or the Kubernetes API.
//!
//! [`convert`] turns one typed Kubernetes object into the model's and says what it left out;
//! [`decode`] does the same from parsed JSON; [`manifest`] reads the text of one file; [`folder`]
//! reads a folder of them once, [`follow`] as it changes; [`kube`] watches the API server.

pub mod decode;
pub mod kube;
pub mod manifests;
pub mod stats;

use std::time::Instant;

pub use self::{
    kube::{ClientError, ConnectBypass, Connections, ServerAddresses, client, config},
    stats::{SourceStats, WatchState},
};
pub use crate::model::event::{Event, Sourced};

/// What changed at once, with the time at which the source read it, which is not when somebody comes to
/// it.
#[derive(Debug)]
pub struct Arrived {
    /// In order; one sync brings all of them to the kernel.
    pub events: Vec<Event>,
    pub at: Instant,
}

impl Arrived {
    /// A single event, which was read now.
    #[must_use]
    pub fn now(event: Event) -> Self {
        Self { events: vec![event], at: Instant::now() }
    }
}
