//! What is told of closing: log, metrics, status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::judge::Doomed;
use crate::{
    helper::{Helper, Outcome, Reach},
    status::{HelperState, Shared},
    telemetry::Metrics,
};

/// Services that one line of the log names.
const NAMED: usize = 5;

/// What is said of an agent that was started without the right to look elsewhere.
pub const CONFINED: &str =
    "without CAP_SYS_ADMIN, sockets are closed in the agent's own network namespace only";

pub struct Account {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    is_confined: bool,
    /// What was said of namespaces that cannot be looked into.
    unseen_told: bool,
}

impl Account {
    pub fn new(helper: Option<&Helper>, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        let is_confined = helper.is_some_and(Helper::is_confined);
        if is_confined {
            tracing::warn!("{CONFINED}; connected UDP sockets elsewhere stay with dead backends");
        }
        let helper = helper.map(|helper| HelperState::Running(helper.pid()));
        shared.update(|status| {
            status.closing.helper = helper;
            status.closing.unseen = is_confined.then(|| CONFINED.to_owned());
        });
        Self { shared, metrics, is_confined, unseen_told: is_confined }
    }

    /// How far a pass could see.
    pub fn reached(&mut self, reach: &Reach) {
        if self.is_confined {
            return;
        }
        if let Some(why) = &reach.why
            && !std::mem::replace(&mut self.unseen_told, true)
        {
            tracing::warn!(
                namespaces = reach.unseen,
                "cannot look into all network namespaces; sockets of dead backends there stay as they \
                 are: {why}"
            );
        }
        let unseen = reach.why.as_ref().map(|why| match reach.unseen {
            1 => why.clone(),
            more => format!("{why}, and {} more", more - 1),
        });
        self.shared.update(|status| status.closing.unseen = unseen);
    }

    pub fn closed(&self, doomed: &[Doomed], outcomes: &[Outcome]) {
        let (mut udp, mut tcp) = (0, 0);
        let mut closed: BTreeMap<&str, usize> = BTreeMap::new();
        let mut failed: Vec<(&Doomed, &str)> = Vec::new();
        for (doomed, outcome) in doomed.iter().zip(outcomes) {
            let (address, port) = doomed.orphan.backend();
            tracing::debug!(
                cookie = doomed.orphan.cookie,
                service = doomed.service,
                backend = %std::net::SocketAddr::new(address, port),
                ?outcome,
                "a socket whose backend is gone"
            );
            match outcome {
                Outcome::ClosedUdp => udp += 1,
                Outcome::ClosedTcp => tcp += 1,
                Outcome::Failed(reason) => failed.push((doomed, reason)),
                Outcome::Kept | Outcome::Missing => continue,
            }
            if !matches!(outcome, Outcome::Failed(_)) {
                *closed.entry(&doomed.service).or_default() += 1;
            }
        }
        self.metrics.sockets_closed(udp, tcp);
        self.metrics.sockets_not_closed(failed.len());
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
            status.closing.udp += udp as u64;
            status.closing.tcp += tcp as u64;
            status.closing.failed += failed.len() as u64;
        });
    }

    pub fn passed(&self, took: Duration) {
        self.metrics.sockets_looked_at(took);
    }

    /// The helper could not do anything.
    pub fn failed(&self, reason: &str) {
        tracing::warn!("cannot look for sockets whose backend is gone: {reason}");
        self.metrics.sockets_not_closed(1);
        self.shared.update(|status| status.closing.failed += 1);
    }

    /// The helper is gone.
    pub fn lost(&self, how: &str) {
        tracing::error!(
            "the helper process has ended ({how}): sockets of dead backends stay as they are until the \
             agent is restarted"
        );
        self.metrics.helper_lost();
        self.shared.update(|status| {
            status.closing.helper = Some(HelperState::Ended(how.to_owned()));
        });
    }
}
