//! Reports on closed sockets: log, metrics, status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    helper::{Coverage, Helper, Outcome, State},
    status::{HelperState, Shared},
    telemetry::Metrics,
    termination::decide::Target,
};

/// Services that one log line names.
const NAMED: usize = 5;

/// The message of an agent that was started without CAP_SYS_ADMIN.
pub const CONFINED: &str =
    "without CAP_SYS_ADMIN, sockets are closed in the agent's own network namespace only";

pub struct Stats {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    is_confined: bool,
    /// The last message about namespaces that cannot be entered.
    unseen: Option<String>,
}

impl Stats {
    pub fn new(helper: Option<&Helper>, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        let is_confined = helper.is_some_and(Helper::is_confined);
        if is_confined {
            tracing::warn!("{CONFINED}; connected UDP sockets elsewhere stay with dead backends");
        }
        let helper = helper.map(|helper| match helper.state() {
            State::Running(pid) => {
                metrics.helper_started();
                HelperState::Running { pid }
            }
            State::Silent => {
                HelperState::Exited { message: "its supervisor does not answer".into() }
            }
            State::Ended(message) => HelperState::Exited { message },
            State::Lost(message) => HelperState::Lost { message },
        });
        shared.update(|status| {
            status.termination.helper = helper;
            status.termination.unsearched = is_confined.then(|| CONFINED.to_owned());
        });
        Self { shared, metrics, is_confined, unseen: None }
    }

    /// Records which namespaces a pass could enter.
    pub fn record_coverage(&mut self, coverage: &Coverage) {
        if self.is_confined {
            return;
        }
        let unseen = coverage.why.as_ref().map(|why| unseen(coverage, why));
        match (&self.unseen, &unseen) {
            (None, Some(unseen)) => tracing::warn!(
                "cannot enter all network namespaces; sockets of removed backends there stay as they \
                 are: {unseen}"
            ),
            (Some(_), None) => tracing::info!("all network namespaces can be entered again"),
            _ => {}
        }
        self.unseen.clone_from(&unseen);
        self.shared.update(|status| status.termination.unsearched = unseen);
    }

    /// Whether some namespaces could not be entered in the last pass that tried.
    pub const fn has_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    pub fn closed(&self, targets: &[Target], outcomes: &[Outcome]) {
        let (mut udp, mut tcp) = (0, 0);
        let mut closed: BTreeMap<&str, usize> = BTreeMap::new();
        let mut failed: Vec<(&Target, &str)> = Vec::new();
        for (target, outcome) in targets.iter().zip(outcomes) {
            let (address, port) = target.socket.backend();
            tracing::debug!(
                cookie = target.socket.cookie,
                service = target.service,
                backend = %std::net::SocketAddr::new(address, port),
                ?outcome,
                "a socket whose backend is gone"
            );
            match outcome {
                Outcome::ClosedUdp => udp += 1,
                Outcome::ClosedTcp => tcp += 1,
                Outcome::Failed(reason) => failed.push((target, reason)),
                Outcome::Kept | Outcome::Missing => continue,
            }
            if !matches!(outcome, Outcome::Failed(_)) {
                *closed.entry(&target.service).or_default() += 1;
            }
        }
        self.metrics.sockets_closed(udp, tcp);
        self.metrics.socket_close_errors(failed.len());
        if udp + tcp > 0 {
            let mut services: Vec<String> = closed
                .iter()
                .take(NAMED)
                .map(|(service, sockets)| format!("{service} ({sockets})"))
                .collect();
            if closed.len() > NAMED {
                services.push(format!("and {} more services", closed.len() - NAMED));
            }
            let services = services.join(", ");
            tracing::info!(udp, tcp, services, "closed sockets whose backend is gone");
        }
        if let [(first, reason), ..] = failed[..] {
            tracing::warn!(
                sockets = failed.len(),
                "cannot close a socket of {} whose backend is gone: {reason}",
                first.service
            );
        }
        self.shared.update(|status| {
            status.termination.udp_sockets_closed += udp as u64;
            status.termination.tcp_sockets_closed += tcp as u64;
            status.termination.errors += failed.len() as u64;
        });
    }

    pub fn passed(&self, took: Duration) {
        self.metrics.sockets_scanned(took);
    }

    /// The helper's request failed as a whole.
    pub fn failed(&self, reason: &str) {
        tracing::warn!("cannot look for sockets whose backend is gone: {reason}");
        self.metrics.socket_close_errors(1);
        self.shared.update(|status| status.termination.errors += 1);
    }

    /// The helper has ended, and will be restarted.
    pub fn ended(&self, how: &str) {
        tracing::error!(
            "the helper process has exited ({how}): sockets of dead backends stay as they are until it \
             is started again"
        );
        self.metrics.helper_exited();
        self.is(HelperState::Exited { message: how.to_owned() });
    }

    /// The restart failed.
    pub fn not_restarted(&self, why: &str) {
        tracing::error!("{why}");
        self.is(HelperState::Exited { message: why.to_owned() });
    }

    /// The supervisor has exited, so the helper cannot be restarted.
    pub fn lost(&self, how: &str) {
        tracing::error!(
            "the helper process's supervisor has exited ({how}): sockets of dead backends stay as they \
             are until the agent is restarted, and /healthz asks for that"
        );
        self.metrics.helper_exited();
        self.is(HelperState::Lost { message: how.to_owned() });
    }

    pub fn restarted(&self, pid: u32) {
        tracing::info!(pid, "the helper process was started again");
        self.metrics.helper_started();
        self.shared.update(|status| {
            status.termination.helper_restarts += 1;
            status.termination.helper = Some(HelperState::Running { pid });
        });
    }

    fn is(&self, state: HelperState) {
        self.shared.update(|status| status.termination.helper = Some(state));
    }
}

/// `/proc/9/ns/net: Permission denied (1 network namespace, and those of 8 processes or mounts)`
fn unseen(coverage: &Coverage, why: &str) -> String {
    let namespaces = match coverage.unseen {
        0 => None,
        1 => Some("1 network namespace".to_owned()),
        many => Some(format!("{many} network namespaces")),
    };
    let hidden = match coverage.hidden {
        0 => None,
        1 => Some("that of 1 process or mount".to_owned()),
        many => Some(format!("those of {many} processes or mounts")),
    };
    let all: Vec<String> = namespaces.into_iter().chain(hidden).collect();
    format!("{why} ({})", all.join(", and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unseen_is_reported_in_namespaces_and_what_is_hidden_in_processes() {
        for (unseen, hidden, expected) in [
            (1, 0, "/x: no (1 network namespace)"),
            (0, 12, "/x: no (those of 12 processes or mounts)"),
            (3, 1, "/x: no (3 network namespaces, and that of 1 process or mount)"),
        ] {
            let coverage = Coverage { unseen, hidden, ..Coverage::default() };
            assert_eq!(super::unseen(&coverage, "/x: no"), expected);
        }
    }
}
