//! What the kernel programs log because an operator asked for it.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::format_seconds, model::object::ObjectName};

/// Which calls the programs log, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgramLog {
    /// The names of the hooks.
    pub hooks: Vec<String>,
    /// The only Service; absent if it is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectName>,
    /// The name or number of the only port of the Service; absent if it is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// When it ends.
    pub until: Timestamp,
    /// Lines that were skipped because there were too many.
    pub lines_skipped: u64,
}

impl fmt::Display for ProgramLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hooks.join(","))?;
        if let Some(service) = &self.service {
            write!(f, " of {service}")?;
        }
        if let Some(port) = &self.port {
            write!(f, ":{port}")?;
        }
        let left: Result<Duration, _> = self.until.duration_since(Timestamp::now()).try_into();
        // It may just have ended.
        let left = left.unwrap_or_default() + Duration::from_millis(500);
        write!(f, ", for another {}", format_seconds(left))?;
        match self.lines_skipped {
            0 => Ok(()),
            count => write!(f, "; {count} lines were skipped"),
        }
    }
}
