//! Adds the probe service to the maps: through the agent, or directly if no agent runs.

use tokio::runtime::Runtime;

use super::Node;
use crate::{
    admin::{self, ProbeLease},
    check::CheckResult,
    dataplane::{Refused, Standalone},
    model::probe_service::{Listeners, ProbeService},
};

const CHECK: &str = "live.service";

pub enum Placed {
    /// Removed when the connection closes.
    ByAgent(ProbeLease),
    Directly(Box<Standalone>, ProbeService),
}

impl Placed {
    /// # Errors
    /// With the failed check if that is not possible.
    pub fn new(
        node: &Node<'_>,
        runtime: &Runtime,
        listeners: Listeners,
    ) -> Result<Self, Box<CheckResult>> {
        let failed =
            |message: String, remedy: &str| Box::new(CheckResult::failed(CHECK, message, remedy));
        if node.agent_runs {
            return runtime
                .block_on(admin::add_probe_service(node.admin_socket, listeners))
                .map(Self::ByAgent)
                .map_err(|error| {
                    failed(
                        format!("no connect was tried: the agent adds no probe service: {error:#}"),
                        "look at agent.ready, at the usage of the maps, and at the agent's log",
                    )
                });
        }
        let why = match Standalone::open(node.snapshot.pins()) {
            Ok(Ok(mut standalone)) => match standalone.put_probe_service(listeners) {
                Ok(service) => return Ok(Self::Directly(Box::new(standalone), service)),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            },
            Ok(Err(Refused::Locked)) => "an agent has just started".into(),
            Ok(Err(Refused::Unsound)) => "the maps have entries that no agent wrote".into(),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        Err(failed(
            format!("no connect was tried: {why}"),
            "start the agent, which repairs the maps, and check again",
        ))
    }

    pub const fn service(&self) -> ProbeService {
        match self {
            Self::ByAgent(lease) => lease.service,
            Self::Directly(_, service) => *service,
        }
    }

    pub fn result(&self) -> CheckResult {
        let service = self.service();
        let by = match self {
            Self::ByAgent(_) => "the agent",
            Self::Directly(..) => "this command, because no agent runs",
        };
        let message =
            format!("probe service at {} and {}, added by {by}", service.ipv4, service.ipv6);
        CheckResult::ok(CHECK, message)
    }

    /// Removes it from the maps.
    pub fn remove(self) -> Option<CheckResult> {
        match self {
            Self::ByAgent(lease) => {
                drop(lease);
                None
            }
            Self::Directly(mut standalone, service) => {
                standalone.remove_probe_service(&service).err().map(|error| {
                    CheckResult::warning(
                        "live.removed",
                        format!("the probe service stays: {:#}", anyhow::Error::from(error)),
                        "start the agent, whose first sync removes it",
                    )
                })
            }
        }
    }
}
