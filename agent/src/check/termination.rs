//! Whether sockets of removed backends are closed.

use super::{CheckResult, Node};
use crate::status::{HelperState, Termination};

/// `None` if no agent runs.
pub fn check(node: &Node<'_>) -> Option<CheckResult> {
    node.status.as_ref().map(|status| result(&status.termination))
}

fn result(termination: &Termination) -> CheckResult {
    let check = "sockets.termination";
    match (termination.method, &termination.helper, &termination.unsearched) {
        (None, ..) => CheckResult::warning(
            check,
            "this kernel closes no sockets for others: connected UDP sockets stay with a backend that \
             is gone",
            "use a kernel with CONFIG_INET_DIAG_DESTROY, or Linux 6.5 with BTF",
        ),
        (_, None, _) => CheckResult::warning(
            check,
            "the helper process could not be started: connected UDP sockets stay with a backend that \
             is gone",
            "look at the agent's log for why, and restart it",
        ),
        (_, Some(HelperState::Exited { message: how }), _) => CheckResult::failed(
            check,
            format!(
                "the helper process has exited ({how}): connected UDP sockets stay with a backend \
                     that is gone until it is started again"
            ),
            "look at the agent's log for why; it is started again within a minute",
        ),
        (_, Some(HelperState::Lost { message: how }), _) => CheckResult::failed(
            check,
            format!(
                "the helper process's supervisor has exited ({how}): connected UDP sockets stay with a \
                     backend that is gone"
            ),
            "restart the agent; kubelet does, because /healthz says so",
        ),
        (_, Some(HelperState::Running { .. }), Some(unseen)) => CheckResult::warning(
            check,
            format!("not everywhere: {unseen}"),
            "start the agent with the capabilities and mounts of deploy/base",
        ),
        (Some(method), Some(HelperState::Running { .. }), None) => {
            let Termination { udp_sockets_closed: udp, tcp_sockets_closed: tcp, errors, .. } =
                termination;
            CheckResult::ok(
                check,
                format!("by {method}; closed {udp} of UDP, {tcp} of TCP, {errors} failed"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::State, sock_destroy::Method};

    #[test]
    fn a_helper_that_is_gone_is_a_failure_and_one_that_sees_little_a_warning() {
        let mut termination = Termination {
            method: Some(Method::SockDestroy),
            helper: Some(HelperState::Running { pid: 1 }),
            ..Termination::default()
        };
        assert_eq!(result(&termination).state, State::Ok);
        termination.unsearched = Some("no right".into());
        assert_eq!(result(&termination).state, State::Warning);
        termination.helper = Some(HelperState::Exited { message: "signal: 9".into() });
        assert_eq!(result(&termination).state, State::Failed);
        termination.helper = Some(HelperState::Lost { message: "signal: 9".into() });
        assert_eq!(result(&termination).state, State::Failed);
        termination.method = None;
        assert_eq!(result(&termination).state, State::Warning);
    }
}
