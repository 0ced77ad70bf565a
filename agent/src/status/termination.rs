//! The termination of sockets whose backend was removed, and the helper process that does it.

use serde::{Deserialize, Serialize};

use crate::sock_destroy::Method;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// How sockets are closed; absent if the kernel cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The process that closes them; absent if none was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<HelperState>,
    /// How often the helper was restarted since the agent started.
    pub helper_restarts: u64,
    /// Sockets closed since the agent started.
    pub udp_sockets_closed: u64,
    pub tcp_sockets_closed: u64,
    pub errors: u64,
    /// Why some network namespaces could not be searched, as of the last search of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsearched: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum HelperState {
    Running {
        pid: u32,
    },
    /// It is restarted. The message says how it exited.
    Exited {
        message: String,
    },
    /// Its supervisor has exited as well. Only a restart of the agent starts both again.
    Lost {
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
