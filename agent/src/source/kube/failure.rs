//! What a failed request or watch means, and how it is told.

use std::error::Error as _;

use ::kube::core::Status;

use super::{Kind, resource, selection::Selection};
use crate::model::object::Problem;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A request failed, or what came back could not be decoded.
    #[error("{0}")]
    Request(#[from] ::kube::Error),
    /// An ERROR event within a watch.
    #[error("{0}")]
    Event(Box<Status>),
    /// The connection ended or died; the watch can go on where it was.
    #[error("the connection was cut off")]
    Cut,
    /// The initial list did not end.
    #[error("the server began a streaming list and did not end it")]
    ListStalled,
    #[error("the server sent a list without a resource version")]
    NoVersion,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Go on from the last resource version.
    Resume,
    /// That version is gone, or an event was lost: list again.
    Relist,
    /// List in pages: this server has no streaming lists.
    ListInPages,
    /// Ask without the field selector: this server does not know it.
    DropFields,
}

impl Failure {
    /// `initial`: it happened while listing.
    pub(super) fn remedy(&self, selection: &Selection, initial: bool) -> Remedy {
        let status = match self {
            Self::ListStalled => return Remedy::ListInPages,
            Self::NoVersion => return Remedy::Relist,
            // An event was lost; resuming behind it would never bring it back.
            Self::Request(::kube::Error::SerdeError(_)) => return Remedy::Relist,
            Self::Cut => return Remedy::Resume,
            Self::Request(::kube::Error::Api(status)) | Self::Event(status) => status,
            Self::Request(_) => return Remedy::Resume,
        };
        let words = &status.message;
        let refused = initial && matches!(status.code, 400 | 422);
        // Servers before 1.27 do not know sendInitialEvents and refuse the resourceVersionMatch that
        // goes with it; with the feature gate off the former is forbidden (validation of
        // ListOptions in apimachinery).
        let streaming =
            words.contains("sendInitialEvents") || words.contains("resourceVersionMatch");
        let fields = words.contains("field label") || words.contains("spec.clusterIP");
        if status.code == 410 {
            Remedy::Relist
        } else if refused && selection.streaming && streaming {
            Remedy::ListInPages
        } else if refused && selection.kind == Kind::Service && selection.fields.is_some() && fields
        {
            Remedy::DropFields
        } else {
            Remedy::Resume
        }
    }

    /// For people: what cannot be done, why in the server's words, and what would help.
    pub(super) fn problem(&self, kind: Kind) -> Problem {
        let resource = resource(kind);
        let message = match self {
            Self::Request(::kube::Error::Api(status)) | Self::Event(status) => {
                let said = if status.message.is_empty() { &status.reason } else { &status.message };
                match status.code {
                    401 => format!(
                        "the server does not accept the agent's credentials for list and watch of \
                         {resource}: {said} (401)"
                    ),
                    403 => format!(
                        "the agent's ClusterRole must allow the verbs list and watch on \
                         {resource}{}: {said} (403)",
                        api_group(kind)
                    ),
                    code => format!("{said} ({code})"),
                }
            }
            Self::Request(error) => chain(error),
            other => other.to_string(),
        };
        Problem {
            object: format!("watch of {resource}"),
            field: String::new(),
            message: format!("{message}; what is known stays as it is"),
        }
    }
}

fn api_group(kind: Kind) -> &'static str {
    match kind {
        Kind::EndpointSlice => ".discovery.k8s.io",
        Kind::Service | Kind::Node | Kind::Namespace | Kind::Pod => "",
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
        Failure::Request(::kube::Error::Api(status.boxed()))
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
            assert_eq!(failure.remedy(&Selection::node("n"), true), Remedy::ListInPages, "{words}");
            assert_eq!(failure.remedy(&Selection::node("n"), false), Remedy::Resume, "{words}");
        }
    }

    #[test]
    fn only_the_cluster_ip_selector_is_dropped() {
        let failure = refusal(400, "field label \"spec.clusterIP\" not supported for Service");
        assert_eq!(failure.remedy(&Selection::services(), true), Remedy::DropFields);
        // Without its field selector a node watch would bring every node's heartbeats.
        assert_eq!(failure.remedy(&Selection::node("n"), true), Remedy::Resume);
    }
}
