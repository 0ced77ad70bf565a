//! The admin socket, a UNIX socket of the agent: `GET /status` for `sockline status`; `GET /info`, `GET
//! /drift` and `POST /probe-service` for `sockline check`; `GET` and `PUT /log-level` and `PUT` and `DELETE /program-log`
//! for `sockline log-level`; `POST /explain` for `sockline trace`; `POST /events` and `POST /pod` for `sockline watch`; `POST
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
    status::{ProgramLog, Status},
};

pub use self::{
    client::{
        ProbeLease, add_probe_service, clients, drift, explain, info, log_level, log_programs,
        look_up_pod, set_log_level, status,
    },
    command::{Command, PodLookup, PodSubject, ProgramLogRequest, Subject},
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
    /// What the kernel programs log because an operator asked for it; absent while they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<ProgramLog>,
}

api::kinds! {
    Subject = "ExplanationSubject",
    Explanation = "Explanation",
    PodSubject = "PodSubject",
    PodLookup = "PodLookup",
    ProgramLogRequest = "ProgramLogRequest",
    Status = "AgentStatus",
    AgentInfo = "AgentInfo",
    Drift = "Drift",
    LogFilter = "LogLevel",
    Listeners = "ProbeListeners",
    ProbeService = "ProbeService",
}
