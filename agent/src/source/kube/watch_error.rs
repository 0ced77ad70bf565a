//! The errors of a request or watch: what they mean, what to do, and the message.

use std::{error::Error as _, time::Duration};

use ::kube::core::Status;

use super::{Kind, api_group, attempt::Phase, resource, selection::Selection};
use crate::model::object::{InputError, shorten};

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No response: no connection, or it broke first.
    #[error("{0}")]
    Request(#[from] ::kube::Error),
    /// A response with an error status.
    #[error("{status}")]
    Refused { status: Box<Status>, retry_after: Option<Duration> },
    /// An ERROR event within a watch.
    #[error("{0}")]
    Event(Box<Status>),
    /// The server ended the watch, as it does after some minutes.
    #[error("the server ended the watch")]
    Ended,
    /// The connection broke. The watch can be resumed.
    #[error("the connection broke")]
    Cut,
    /// The connection is open, but nothing comes.
    #[error("the server sent nothing for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The initial list did not end.
    #[error("the server did not end a streaming list")]
    ListStalled,
    #[error("the server sent a list without a resource version")]
    NoVersion,
    /// Larger than what is held in memory.
    #[error("the server sent a page of a list that is too large")]
    LargePage,
    /// Not an object is invalid, but the list or the event.
    #[error("the server's response is not a list or watch of the Kubernetes API: {0}")]
    Garbage(String),
}

impl From<::kube::core::request::Error> for WatchError {
    fn from(error: ::kube::core::request::Error) -> Self {
        Self::Request(::kube::Error::BuildRequest(error))
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Watch from the last resource version.
    Resume,
    /// The version is gone, or an event was lost: list again.
    Relist,
    /// List in pages: the server does not stream lists, or did not end one.
    ListInPages,
    /// Request without the field selector, which the server does not know.
    DropFields,
}

impl WatchError {
    /// What to do after this error in this phase.
    pub(super) fn recovery(&self, selection: &Selection, phase: Phase) -> Recovery {
        let status = match self {
            Self::ListStalled => return Recovery::ListInPages,
            // An event was lost, and a watch that is resumed behind it does not bring it back.
            Self::Garbage(_) | Self::NoVersion | Self::LargePage => return Recovery::Relist,
            Self::Cut | Self::Ended | Self::Silent(_) | Self::Request(_) => {
                return Recovery::Resume;
            }
            Self::Refused { status, .. } | Self::Event(status) => status,
        };
        let words = &status.message;
        let invalid = matches!(status.code, 400 | 422);
        // Servers before 1.27 do not know sendInitialEvents and refuse the resourceVersionMatch that
        // goes with it; with the feature gate off the former is forbidden (validation of
        // ListOptions in apimachinery).
        let streaming =
            words.contains("sendInitialEvents") || words.contains("resourceVersionMatch");
        let fields = words.contains("field label") || words.contains("spec.clusterIP");
        if status.code == 410 {
            Recovery::Relist
        } else if phase == Phase::StreamingList && invalid && streaming {
            Recovery::ListInPages
        } else if phase != Phase::Watch
            && invalid
            && fields
            && selection.kind == Kind::Service
            && selection.fields.is_some()
        {
            Recovery::DropFields
        } else if phase == Phase::Watch && (invalid || words.contains("Too large resource version"))
        {
            // The server does not know the version: its store was replaced.
            Recovery::Relist
        } else {
            Recovery::Resume
        }
    }

    /// Part of the protocol: reported only when it repeats.
    pub(super) fn is_expected(&self) -> bool {
        match self {
            Self::Ended | Self::Cut => true,
            Self::Refused { status, .. } | Self::Event(status) => status.code == 410,
            _ => false,
        }
    }

    /// The server could not be reached, or its response did not arrive.
    pub(super) fn is_of_reach(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Cut | Self::Silent(_))
    }

    /// How long the server wants the client to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let (status, header) = match self {
            Self::Refused { status, retry_after } => (status, *retry_after),
            Self::Event(status) => (status, None),
            _ => return None,
        };
        let details = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        header.or_else(|| (details > 0).then(|| Duration::from_secs(details.into())))
    }

    /// The message: what failed, the server's message, and what would help.
    pub(super) fn input_error(&self, kind: Kind, hint: Option<&str>) -> InputError {
        let resource = resource(kind);
        let group = api_group(kind).map(|group| format!(".{group}")).unwrap_or_default();
        let message = match self {
            Self::Refused { status, .. } | Self::Event(status) => {
                let said = if status.message.is_empty() { &status.reason } else { &status.message };
                match status.code {
                    401 => format!(
                        "the server does not accept the agent's credentials for list and watch of \
                         {resource}: {said} (401)"
                    ),
                    403 => format!(
                        "the agent's ClusterRole must allow the verbs list and watch on \
                         {resource}{group}: {said} (403)"
                    ),
                    code => format!("{said} ({code})"),
                }
            }
            Self::Request(error) => chain(error),
            other => other.to_string(),
        };
        let message = shorten(message);
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        InputError {
            object: format!("watch of {resource}").into(),
            field: String::new(),
            message: format!("{message}{hint}; known objects stay as they are"),
        }
    }
}

/// The error and its causes: hyper's own text for a refused connection is only "client error (Connect)". A cause whose
/// text is already in the message is not repeated.
fn chain(error: &::kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, message: &str) -> WatchError {
        let status = Status::failure(message, "Invalid").with_code(code);
        WatchError::Refused { status: status.boxed(), retry_after: None }
    }

    #[test]
    fn servers_without_streaming_lists_are_known_by_their_error_message() {
        for (code, words) in [
            (
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            ),
            (
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch",
            ),
            (400, "resourceVersionMatch is forbidden for watch"),
        ] {
            let failure = refusal(code, words);
            assert_eq!(
                failure.recovery(&Selection::node("n"), Phase::PagedList),
                Recovery::Resume,
                "{words}"
            );
            assert_eq!(
                failure.recovery(&Selection::node("n"), Phase::StreamingList),
                Recovery::ListInPages,
                "{words}"
            );
            assert_eq!(
                failure.recovery(&Selection::node("n"), Phase::Watch),
                Recovery::Relist,
                "{words}"
            );
        }
    }

    #[test]
    fn only_the_cluster_ip_selector_is_dropped() {
        let failure = refusal(400, "field label \"spec.clusterIP\" not supported for Service");
        assert_eq!(
            failure.recovery(&Selection::services(), Phase::StreamingList),
            Recovery::DropFields
        );
        // Without its field selector a node watch would bring every node's heartbeats.
        assert_eq!(failure.recovery(&Selection::node("n"), Phase::StreamingList), Recovery::Resume);
    }
}
