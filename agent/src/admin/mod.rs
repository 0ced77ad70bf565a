//! The admin socket, a UNIX socket of the agent: `GET /status` for `sockline status`; `GET /info`, `GET
//! /drift` and `POST /probe-service` for `sockline check`; `GET` and `PUT /log-level` for `sockline log-level`.

mod client;
mod command;
mod lease;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{ProbeLease, add_probe_service, drift, info, log_level, set_log_level, status},
    command::Command,
    server::{Server, State},
};

/// The default of `--admin-socket`.
pub const DEFAULT_SOCKET: &str = "/run/sockline/admin.sock";

/// What only the process of the agent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    pub programs: Vec<HookProgram>,
    /// The control loop runs. See [`Shared::is_alive`](crate::status::Shared::is_alive).
    pub alive: bool,
}

/// The program of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookProgram {
    pub hook: String,
    /// The kernel's ID.
    pub id: u32,
}

/// What the agent logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    pub filter: String,
}
