//! The result of a check.

use std::borrow::Cow;

use serde::Serialize;

/// The state, in order of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It works, but an operator should look at it.
    Warning,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The name, which is stable across releases: `links.attached`.
    pub check: Cow<'static, str>,
    pub state: State,
    #[serde(rename = "message")]
    pub detail: String,
    /// What the operator can do; absent if the state is ok.
    #[serde(rename = "remedy", skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

impl CheckResult {
    pub fn ok(check: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Ok, detail: detail.into(), todo: None }
    }

    pub fn warning(
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        let todo = Some(todo.into());
        Self { check: check.into(), state: State::Warning, detail: detail.into(), todo }
    }

    pub fn failed(
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { state: State::Failed, ..Self::warning(check, detail, todo) }
    }
}
