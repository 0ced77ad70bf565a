//! The admin socket, a UNIX socket of the agent: `GET /status` for `sockline status`; `GET /info`, `GET
//! /drift` and `POST /probe-service` for `sockline check`; `GET` and `PUT /log-level` for `sockline log-level`; `POST
//! /explain` for `sockline trace`; `POST /events` and `POST /pod` for `sockline watch`; `POST
//! /clients` for `sockline map` and `top`.

mod client;
mod command;
mod events;
mod lease;
mod server;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api,
    dataplane::Drift,
    model::{
        explain::Explanation,
        probe_service::{Listeners, ProbeService},
    },
    status::Status,
};

pub use self::{
    client::{
        ProbeLease, add_probe_service, clients, drift, explain, info, log_level, look_up_pod,
        set_log_level, status,
    },
    command::{Command, PodLookup, PodSubject, Subject},
    events::{EventStream, Watched, watch},
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogFilter {
    /// A level, or levels by module, as `--log-level` takes them.
    pub filter: String,
}

api::kinds! {
    Subject = "ExplanationSubject",
    Explanation = "Explanation",
    PodSubject = "PodSubject",
    PodLookup = "PodLookup",
    Status = "AgentStatus",
    AgentInfo = "AgentInfo",
    Drift = "Drift",
    LogFilter = "LogLevel",
    Listeners = "ProbeListeners",
    ProbeService = "ProbeService",
}
