//! The agent's own account of itself, over a UNIX socket: `GET /status`, `GET /self`, and what
//! `sockline check` asks for: `POST /compare`, `POST /test-service`.

mod client;
mod command;
mod lease;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{TestLease, compare, myself, status, test_service},
    command::Command,
    server::{Server, State},
};

/// Where the socket is unless `--admin-socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sockline/admin.sock";

/// What only the agent's process knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Myself {
    /// The kernel's id of the program of each hook.
    pub programs: Vec<(String, u32)>,
    /// The control loop has shown itself lately.
    pub alive: bool,
}
