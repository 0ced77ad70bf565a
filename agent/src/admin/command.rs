//! What the admin socket asks of the control loop, the only writer of the maps.

use tokio::sync::oneshot;

use crate::{
    dataplane::Drift,
    model::test_service::{Listeners, TestService},
};

/// A request; a refusal is told in words.
#[derive(Debug)]
pub enum Command {
    /// Puts a test service into the maps. It stays until it is removed; when nobody waits for the
    /// reply any more, it is removed at once.
    PutTest {
        listeners: Listeners,
        reply: oneshot::Sender<Result<TestService, String>>,
    },
    RemoveTest(TestService),
    /// Compares plan and maps, and changes nothing.
    Compare {
        reply: oneshot::Sender<Result<Drift, String>>,
    },
}
