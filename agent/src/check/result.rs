//! The result of a check.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

/// The state, in order of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it must be.
    Ok,
    /// It works, but an operator should look at it.
    Warning,
    /// It does not work.
    Failed,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// The result of one check: one line of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The name of the check, which is stable across releases: `links.attached`.
    pub check: Cow<'static, str>,
    /// The result.
    pub state: State,
    /// What was found.
    pub message: String,
    /// What the operator can do; absent if the state is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl CheckResult {
    pub fn ok(check: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Ok, message: message.into(), remedy: None }
    }

    pub fn warning(
        check: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check: check.into(), state: State::Warning, message: message.into(), remedy }
    }

    pub fn failed(
        check: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Failed, ..Self::warning(check, message, remedy) }
    }
}
