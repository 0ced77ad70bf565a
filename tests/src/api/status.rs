//! The server's refusals.

use serde_json::{Value, json};

use super::{Answer, Resource};

/// A `Status` of a rejected request.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// In seconds.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None }
    }

    /// As priority and fairness rejects requests that do not fit into its queues.
    pub fn too_many_requests(retry_after: u32) -> Self {
        let words = "too many requests, please try again later";
        Self { retry_after: Some(retry_after), ..Self::new(429, "TooManyRequests", words) }
    }

    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "the server is shutting down")
    }

    pub fn internal_error() -> Self {
        Self::new(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn expired(asked: &str, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub(super) fn bad_token(why: &str) -> Self {
        let words = format!("invalid continue token: continue key is not valid: {why}");
        Self::new(400, "BadRequest", words)
    }

    pub(super) fn old_token() -> Self {
        let words = "The provided continue parameter is too old to display a consistent list \
                     result. You can start a new list without the continue parameter.";
        Self::new(410, "Expired", words)
    }

    pub(super) fn bad_version(asked: &str) -> Self {
        let words = format!(
            "resourceVersion: Invalid value: {asked:?}: strconv.ParseUint: parsing {asked:?}: \
             invalid syntax"
        );
        Self::new(400, "BadRequest", words)
    }

    pub(super) fn too_large(asked: u64, current: u64) -> Self {
        let words = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self { retry_after: Some(1), ..Self::new(504, "Timeout", words) }
    }

    /// A server whose feature gate WatchList is off; those before 1.27 send the first half.
    pub(super) fn no_streaming_lists() -> Self {
        let words = "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: \
                     resourceVersionMatch is forbidden for watch, sendInitialEvents: Forbidden: \
                     sendInitialEvents is forbidden for watch unless the WatchList feature gate is \
                     enabled]";
        Self::new(422, "Invalid", words)
    }

    /// A streaming list must have a resourceVersionMatch.
    pub(super) fn no_match() -> Self {
        let words = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
                     sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        Self::new(422, "Invalid", words)
    }

    /// As servers before 1.22 answer the field selector of Services.
    pub(super) fn no_field_selector(selector: &str, resource: Resource) -> Self {
        let field = selector.split(['!', '=']).next().unwrap_or_default();
        let path = resource.path().rsplit('/').next().unwrap_or_default();
        let words = format!(
            "Unable to find {:?} that match label selector \"\", field selector {selector:?}: \
             {field:?} is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\"",
            format!("/v1, Resource={path}")
        );
        Self::new(400, "BadRequest", words)
    }

    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(seconds) = self.retry_after {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        status
    }

    /// The same as an ERROR event of a watch.
    pub fn event(&self) -> String {
        format!("{}\n", json!({"type": "ERROR", "object": self.status()}))
    }

    pub(super) fn answer(&self) -> Answer {
        let body = format!("{:#}", self.status());
        Answer::Whole { status: self.code, retry_after: self.retry_after, body }
    }
}
