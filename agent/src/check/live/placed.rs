//! The probe service in the maps: through the agent, or, while there is none, by ourselves.

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
    ByUs(Box<Standalone>, ProbeService),
}

impl Placed {
    /// # Errors
    /// With what to say when it is not possible.
    pub fn new(
        node: &Node<'_>,
        runtime: &Runtime,
        listeners: Listeners,
    ) -> Result<Self, Box<CheckResult>> {
        let failed =
            |detail: String, todo: &str| Box::new(CheckResult::failed(CHECK, detail, todo));
        if node.agent_runs {
            return runtime
                .block_on(admin::add_probe_service(node.admin_socket, listeners))
                .map(Self::ByAgent)
                .map_err(|error| {
                    failed(
                        format!(
                            "no connect was tried: the agent places no probe service: {error:#}"
                        ),
                        "look at agent.ready, at how full the maps are, and at the agent's log",
                    )
                });
        }
        let why = match Standalone::open(node.view.pins()) {
            Ok(Ok(mut offline)) => match offline.put_probe_service(listeners) {
                Ok(service) => return Ok(Self::ByUs(Box::new(offline), service)),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            },
            Ok(Err(Refused::Locked)) => "an agent has just started".into(),
            Ok(Err(Refused::Unsound)) => "the maps hold what no agent wrote as it is".into(),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        Err(failed(
            format!("no connect was tried: {why}"),
            "start the agent, which mends the maps, and check again",
        ))
    }

    pub const fn service(&self) -> ProbeService {
        match self {
            Self::ByAgent(lease) => lease.service,
            Self::ByUs(_, service) => *service,
        }
    }

    pub fn result(&self) -> CheckResult {
        let service = self.service();
        let by = match self {
            Self::ByAgent(_) => "the agent",
            Self::ByUs(..) => "this command, for want of an agent",
        };
        let detail =
            format!("probe service at {} and {}, placed by {by}", service.ipv4, service.ipv6);
        CheckResult::ok(CHECK, detail)
    }

    /// Takes it out of the maps again.
    pub fn remove(self) -> Option<CheckResult> {
        match self {
            Self::ByAgent(lease) => {
                drop(lease);
                None
            }
            Self::ByUs(mut offline, service) => {
                offline.remove_probe_service(&service).err().map(|error| {
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
