//! Whether the agent is healthy and the node is served, for `/healthz` and `/readyz`: checks that are cheap enough
//! for a probe every few seconds.
//!
//! Each request evaluates the state. Guards that tasks drop once they are ready would not do: readiness can be lost again
//! (links, the fail-open deadline, reclaiming, the helper).

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::links;
use crate::{
    dataplane::{self, AgentState, Dataplane, DataplaneError, Pins},
    status::{HelperUnavailable, Shared},
};

/// How long the state of the links is cached.
const CACHE_TIME: Duration = Duration::from_secs(2);

/// The health of the agent and of the node, as the agent itself sees it.
pub struct Readiness {
    shared: Arc<Shared>,
    agent_state: AgentState,
    links: Arc<Links>,
    /// The cached damage of the links. Locked while the links are read, so that this happens once at a time.
    seen: Mutex<Option<(Instant, Vec<String>)>>,
}

struct Links {
    pins: Pins,
    cgroup: PathBuf,
    programs: BTreeMap<&'static str, u32>,
}

impl Readiness {
    /// # Errors
    /// When the ids of the loaded programs cannot be read.
    pub fn new(shared: Arc<Shared>, dataplane: &Dataplane) -> Result<Self, DataplaneError> {
        let links = Arc::new(Links {
            pins: dataplane.pins().clone(),
            cgroup: dataplane.cgroup().to_owned(),
            programs: dataplane.program_ids()?.into_iter().collect(),
        });
        let agent_state = dataplane.agent_state();
        Ok(Self { shared, agent_state, links, seen: Mutex::new(None) })
    }

    /// Whether the control loop turns.
    pub fn is_alive(&self) -> bool {
        self.shared.is_alive()
    }

    /// Why this process must be restarted; `None` if it need not be. The caller may restart it at any time,
    /// because the kernel keeps serving.
    pub fn why_sick(&self) -> Option<String> {
        if !self.is_alive() {
            return Some("the control loop is stuck".into());
        }
        self.shared
            .helper_unavailable()
            .filter(|helper| matches!(helper, HelperUnavailable::Lost(_)))
            .map(|helper| helper.to_string())
    }

    /// Why the node is not served, or not in full; `None` if it is.
    pub async fn why_not(&self) -> Option<String> {
        if let Some(reason) = self.why_sick() {
            return Some(reason);
        }
        let bypassed = self.agent_state.bypassed_for().map(|past| {
            let past = past.as_secs();
            format!("all calls are bypassed for {past} seconds, see --fail-open-after")
        });
        if !self.shared.is_ready() {
            let reasons = std::iter::once(self.shared.waiting()).chain(bypassed);
            return Some(reasons.collect::<Vec<_>>().join("; "));
        }
        if bypassed.is_some() {
            return bypassed;
        }
        if let Some(why) = self.shared.reclaim_failure() {
            return Some(format!("freed map entries are not reclaimed: {why}"));
        }
        let mut damage = self.damage().await;
        damage.extend(self.shared.helper_unavailable().map(|helper| helper.to_string()));
        (!damage.is_empty()).then(|| damage.join("; "))
    }

    /// For how long the node has been served from the last known state because the source is away; `None` if
    /// the source is connected.
    pub fn out_of_touch(&self) -> Option<Duration> {
        self.shared.status().out_of_touch()
    }

    async fn damage(&self) -> Vec<String> {
        let mut seen = self.seen.lock().await;
        if let Some((when, damage)) = &*seen
            && when.elapsed() < CACHE_TIME
        {
            return damage.clone();
        }
        let links = Arc::clone(&self.links);
        let damage = tokio::task::spawn_blocking(move || links.damage())
            .await
            .unwrap_or_else(|error| vec![format!("cannot read the links: {error}")]);
        *seen = Some((Instant::now(), damage.clone()));
        damage
    }
}

impl Links {
    fn damage(&self) -> Vec<String> {
        match dataplane::hooks(&self.pins, &self.cgroup) {
            Ok((cgroup, hooks)) => links::damage(cgroup, &hooks, Some(&self.programs)),
            Err(error) => vec![format!("{:#}", anyhow::Error::from(error))],
        }
    }
}
