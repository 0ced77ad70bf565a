//! What is known of this node, from the kernel and from the agent.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    dataplane::{Attachment, Snapshot, fault_name},
    duration,
    escape::Escaped,
    status::Status,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusReport {
    pub(super) node_name: String,
    pub(super) conditions: Vec<Condition>,
    pub(super) hooks: Vec<Hook>,
    pub(super) cgroup: String,
    pub(super) frontends: usize,
    pub(super) last_sync_time: Option<Timestamp>,
    /// Translated sockets; absent where they are in socket storage, which cannot be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sockets: Option<usize>,
    pub(super) faults: Vec<FaultCount>,
    pub(super) fail_open: FailOpen,
    /// Absent while the agent is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<Status>,
}

/// As the conditions of Kubernetes' objects.
#[derive(Debug, Serialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: ConditionType,
    pub(super) status: ConditionStatus,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum ConditionType {
    /// An agent holds the pins.
    AgentRunning,
    /// Every hook is attached to the agent's cgroup.
    HooksAttached,
    /// Services are served from the objects as the source has them.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum ConditionStatus {
    True,
    False,
    Unknown,
}

#[derive(Debug, Serialize)]
pub(super) struct Hook {
    pub(super) name: &'static str,
    pub(super) state: HookState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HookState {
    Attached,
    Missing,
    OnAnotherCgroup,
}

impl HookState {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Missing => "missing",
            Self::OnAnotherCgroup => "on another cgroup",
        }
    }
}

/// Whether all calls are bypassed because there is no agent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailOpen {
    /// How long after the agent's last heartbeat; absent if never.
    #[serde(with = "duration::as_text", skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Duration>,
    /// Calls are bypassed since then; absent if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bypassed_since: Option<Timestamp>,
    /// How long until they are, without another heartbeat.
    #[serde(with = "duration::as_text", skip_serializing_if = "Option::is_none")]
    pub(super) remaining: Option<Duration>,
    /// Calls that were bypassed, since the maps were made.
    pub(super) bypassed_calls: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct FaultCount {
    pub(super) fault: &'static str,
    pub(super) count: u64,
}

impl StatusReport {
    pub(super) fn gather(
        snapshot: &Snapshot,
        agent: anyhow::Result<Status>,
    ) -> anyhow::Result<Self> {
        let record = snapshot.agent()?;
        let runs = snapshot.agent_runs()?;
        let fail_open = FailOpen::read(snapshot)?;
        let hooks: Vec<Hook> = snapshot
            .attachments()?
            .into_iter()
            .map(|(name, state)| Hook {
                name,
                state: match state {
                    Attachment::Attached => HookState::Attached,
                    Attachment::Missing => HookState::Missing,
                    Attachment::Elsewhere => HookState::OnAnotherCgroup,
                },
            })
            .collect();
        let faults = snapshot.counters()?.faults()?.into_iter();
        Ok(Self {
            node_name: record.node,
            conditions: vec![
                agent_running(&agent, runs, &fail_open),
                hooks_attached(&hooks),
                ready(agent.as_ref().ok(), &fail_open),
            ],
            hooks,
            cgroup: record.cgroup.display().to_string(),
            frontends: snapshot.count_frontends()?,
            last_sync_time: record.last_sync.and_then(|time| Timestamp::try_from(time).ok()),
            sockets: snapshot.sockets()?,
            faults: faults
                .map(|(fault, count)| FaultCount { fault: fault_name(fault), count })
                .collect(),
            fail_open,
            agent: agent.ok(),
        })
    }

    pub(super) fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

impl FailOpen {
    fn read(snapshot: &Snapshot) -> anyhow::Result<Self> {
        let deadline = snapshot.deadline()?;
        let since = |past| SignedDuration::try_from(past).map(|past| Timestamp::now() - past);
        Ok(Self {
            after: deadline.after,
            bypassed_since: deadline.bypassed_for().map(since).transpose()?,
            remaining: deadline.left(),
            bypassed_calls: snapshot.counters()?.bypassed_stale()?,
        })
    }
}

fn agent_running(agent: &anyhow::Result<Status>, runs: bool, fail_open: &FailOpen) -> Condition {
    let (status, reason, message) = match (agent, runs) {
        (Ok(agent), _) => (
            ConditionStatus::True,
            "Running",
            format!(
                "version {}, process {}, for {}",
                agent.version,
                agent.pid,
                duration::format_age(agent.start_time)
            ),
        ),
        (Err(error), true) => {
            (ConditionStatus::True, "NotResponding", Escaped(format!("{error:#}")).to_string())
        }
        (Err(_), false) if fail_open.bypassed_since.is_some() => {
            (ConditionStatus::False, "NotRunning", "all calls are bypassed".into())
        }
        (Err(_), false) => {
            (ConditionStatus::False, "NotRunning", "the kernel keeps serving what it has".into())
        }
    };
    Condition { kind: ConditionType::AgentRunning, status, reason, message }
}

fn hooks_attached(hooks: &[Hook]) -> Condition {
    let bad: Vec<String> = hooks
        .iter()
        .filter(|hook| hook.state != HookState::Attached)
        .map(|hook| format!("{} {}", hook.name, hook.state.as_str()))
        .collect();
    let (status, reason, message) = if bad.is_empty() {
        (ConditionStatus::True, "Attached", format!("all {} attached", hooks.len()))
    } else {
        (
            ConditionStatus::False,
            "NotAttached",
            format!("{} of {} NOT attached: {}", bad.len(), hooks.len(), bad.join(", ")),
        )
    };
    Condition { kind: ConditionType::HooksAttached, status, reason, message }
}

fn ready(agent: Option<&Status>, fail_open: &FailOpen) -> Condition {
    let bypassed = fail_open.bypassed_since.is_some();
    let (status, reason, message) = match agent {
        _ if bypassed => (ConditionStatus::False, "Bypassed", "all calls are bypassed".into()),
        None => (ConditionStatus::Unknown, "NoAgent", "only the agent knows".into()),
        Some(agent) if !agent.ready => (ConditionStatus::False, "Waiting", agent.waiting()),
        Some(agent) => match agent.out_of_touch() {
            None => (ConditionStatus::True, "Synced", String::new()),
            Some(age) => (
                ConditionStatus::True,
                "SourceDisconnected",
                format!(
                    "with the state of {} ago: not connected to the source since then",
                    duration::format_seconds(age)
                ),
            ),
        },
    };
    Condition { kind: ConditionType::Ready, status, reason, message }
}
