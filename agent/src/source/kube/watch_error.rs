//! What a failed request or watch means, and how it is told.

use std::{error::Error as _, time::Duration};

use ::kube::core::Status;

use super::{Kind, api_group, resource, selection::Selection};
use crate::model::object::{InputError, shorten};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No answer: the connection could not be made, or broke before there was one.
    #[error("{0}")]
    Request(#[from] ::kube::Error),
    /// An answer that is a refusal.
    #[error("{status}")]
    Refused { status: Box<Status>, retry_after: Option<Duration> },
    /// An ERROR event within a watch.
    #[error("{0}")]
    Event(Box<Status>),
    /// The server ended the watch, as it does with every one after some minutes.
    #[error("the server ended the watch")]
    Ended,
    /// The connection broke; the watch can go on where it was.
    #[error("the connection was cut off")]
    Cut,
    /// The server holds the connection and says nothing.
    #[error("the server said nothing for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The initial list did not end.
    #[error("the server began a streaming list and did not end it")]
    ListStalled,
    #[error("the server sent a list without a resource version")]
    NoVersion,
    /// More than is to be in memory at once.
    #[error("the server sent a page of a list that is too long to be read")]
    LargePage,
    /// Not one object is wrong, but what the objects come in.
    #[error("the server sent what is no list or watch of the Kubernetes API: {0}")]
    Garbage(String),
}

impl From<::kube::core::request::Error> for Failure {
    fn from(error: ::kube::core::request::Error) -> Self {
        Self::Request(::kube::Error::BuildRequest(error))
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Go on from the last resource version.
    Resume,
    /// That version is gone, or an event was lost: list again.
    Relist,
    /// List in pages: this server cannot stream lists, or did not end one.
    ListInPages,
    /// Ask without the field selector: this server does not know it.
    DropFields,
}

impl Failure {
    /// `listing`: it happened before the list was complete; `streams`: and that was a streaming one.
    pub(super) fn remedy(&self, selection: &Selection, listing: bool, streams: bool) -> Remedy {
        let status = match self {
            Self::ListStalled => return Remedy::ListInPages,
            // An event was lost; resuming behind it would never bring it back.
            Self::Garbage(_) | Self::NoVersion | Self::LargePage => return Remedy::Relist,
            Self::Cut | Self::Ended | Self::Silent(_) | Self::Request(_) => return Remedy::Resume,
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
            Remedy::Relist
        } else if streams && invalid && streaming {
            Remedy::ListInPages
        } else if listing
            && invalid
            && fields
            && selection.kind == Kind::Service
            && selection.fields.is_some()
        {
            Remedy::DropFields
        } else if !listing && (invalid || words.contains("Too large resource version")) {
            // The version is no good to this server: its store was replaced by another one.
            Remedy::Relist
        } else {
            Remedy::Resume
        }
    }

    /// It belongs to the protocol and is worth a word only if it goes on and on.
    pub(super) fn is_expected(&self) -> bool {
        match self {
            Self::Ended | Self::Cut => true,
            Self::Refused { status, .. } | Self::Event(status) => status.code == 410,
            _ => false,
        }
    }

    /// The server could not be asked, or its answer did not get here.
    pub(super) fn is_of_reach(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Cut | Self::Silent(_))
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let (status, header) = match self {
            Self::Refused { status, retry_after } => (status, *retry_after),
            Self::Event(status) => (status, None),
            _ => return None,
        };
        let details = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        header.or_else(|| (details > 0).then(|| Duration::from_secs(details.into())))
    }

    /// For people: what cannot be done, why in the server's words, and what would help.
    pub(super) fn problem(&self, kind: Kind, hint: Option<&str>) -> InputError {
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
            object: format!("watch of {resource}"),
            field: String::new(),
            message: format!("{message}{hint}; what is known stays as it is"),
        }
    }
}

/// The error and its causes: hyper's own text for a refused connection is only "client error
/// (Connect)". A cause that the text before it already tells is left out.
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

    fn refusal(code: u16, message: &str) -> Failure {
        let status = Status::failure(message, "Invalid").with_code(code);
        Failure::Refused { status: status.boxed(), retry_after: None }
    }

    #[test]
    fn servers_without_streaming_lists_are_known_by_their_words() {
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
                failure.remedy(&Selection::node("n"), true, false),
                Remedy::Resume,
                "{words}"
            );
            assert_eq!(
                failure.remedy(&Selection::node("n"), true, true),
                Remedy::ListInPages,
                "{words}"
            );
            assert_eq!(
                failure.remedy(&Selection::node("n"), false, false),
                Remedy::Relist,
                "{words}"
            );
        }
    }

    #[test]
    fn only_the_cluster_ip_selector_is_dropped() {
        let failure = refusal(400, "field label \"spec.clusterIP\" not supported for Service");
        assert_eq!(failure.remedy(&Selection::services(), true, true), Remedy::DropFields);
        // Without its field selector a node watch would bring every node's heartbeats.
        assert_eq!(failure.remedy(&Selection::node("n"), true, true), Remedy::Resume);
    }
}
