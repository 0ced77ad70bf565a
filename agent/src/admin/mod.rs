//! The admin socket, a UNIX socket of the agent: `GET /status` for `sockline status`; `GET /info`, `GET
//! /drift` and `POST /probe-service` for `sockline check`.

mod client;
mod command;
mod lease;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{ProbeLease, add_probe_service, drift, info, status},
    command::Command,
    server::{Server, State},
};

/// The default of `--admin-socket`.
pub const DEFAULT_SOCKET: &str = "/run/sockline/admin.sock";

/// What only the process of the agent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The kernel's ID of the program for each hook.
    pub programs: Vec<(String, u32)>,
    /// The control loop runs. See [`Shared::is_alive`](crate::status::Shared::is_alive).
    pub alive: bool,
}
