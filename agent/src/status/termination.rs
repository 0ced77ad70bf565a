//! The termination of sockets whose backend was removed, and the helper process that does it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sock_destroy::Method;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// How sockets are closed; absent if the kernel has no way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The helper process, which closes them; absent if none was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<HelperState>,
    /// How often the helper was restarted since the agent started.
    pub helper_restarts: u64,
    /// UDP sockets closed since the agent started.
    pub udp_sockets_closed: u64,
    /// TCP connections closed since the agent started (`sockline.dev/close-on-removal`).
    pub tcp_sockets_closed: u64,
    /// Sockets that could not be closed, and searches that failed, since the agent started.
    pub errors: u64,
    /// Why some network namespaces could not be searched, as of the last search of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsearched: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum HelperState {
    /// It runs.
    Running {
        /// Its process ID, in the agent's PID namespace.
        pid: u32,
    },
    /// It has exited; the agent restarts it.
    Exited {
        /// How it exited.
        message: String,
    },
    /// Its supervisor has exited as well; only a restart of the agent starts both again.
    Lost {
        /// How it exited.
        message: String,
    },
}

/// Why the helper process does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperUnavailable {
    #[error("the helper process has exited ({0}); it is restarted")]
    Away(String),
    #[error(
        "the helper process's supervisor has exited ({0}): the agent must be restarted; the kernel keeps \
         serving"
    )]
    Lost(String),
}
