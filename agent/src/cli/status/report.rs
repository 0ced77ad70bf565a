//! The status report of a node, from the kernel and from the agent.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::Kind,
    dataplane::{Attachment, Snapshot, fault_name},
    duration,
    escape::Escaped,
    status::Status,
};

/// Whether this node is served: what is known from the kernel and from the agent.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct StatusReport {
    /// The name of this node's Node object, as the last agent had it.
    pub(super) node_name: String,
    /// The state of the node in brief, in the form of the conditions of Kubernetes' objects.
    pub(super) conditions: Vec<Condition>,
    /// The hooks that need one of the agent's programs.
    pub(super) hooks: Vec<Hook>,
    /// The cgroup that the programs are attached to: the sockets of processes in and below it are served.
    pub(super) cgroup: String,
    /// Service addresses in the kernel, with their ports and protocols.
    pub(super) frontends: usize,
    /// When an agent last synced; null before the first time.
    pub(super) last_sync_time: Option<Timestamp>,
    /// Translated sockets in the table; absent if records of sockets are elsewhere (before Linux 5.12).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sockets: Option<usize>,
    /// Faults of the programs since the maps were made.
    pub(super) faults: Vec<FaultCount>,
    /// Whether all calls are bypassed because no agent runs (`--fail-open-after`).
    pub(super) fail_open: FailOpen,
    /// What the agent says of itself; absent while no agent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<Status>,
}

impl Kind for StatusReport {
    const KIND: &'static str = "StatusReport";
}

/// As the conditions of Kubernetes' objects.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Condition {
    /// What the condition says, if its status is `True`.
    #[serde(rename = "type")]
    pub(super) kind: ConditionType,
    /// Whether it holds; `Unknown` if only an agent could tell.
    pub(super) status: ConditionStatus,
    /// The cause of the status.
    pub(super) reason: Reason,
    /// The same for people; may be empty.
    pub(super) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) enum ConditionType {
    /// An agent holds the pins.
    AgentRunning,
    /// Every hook has the agent's program, attached to the agent's cgroup.
    HooksAttached,
    /// Services are served from the objects as the source has them.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// Why a condition has its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) enum Reason {
    /// The agent answers (`AgentRunning`).
    Running,
    /// An agent holds the pins, but its answer is missing or cannot be read (`AgentRunning`).
    NotResponding,
    /// No agent runs (`AgentRunning`).
    NotRunning,
    /// Every hook is attached (`HooksAttached`).
    Attached,
    /// Some are not, or to another cgroup (`HooksAttached`).
    NotAttached,
    /// The first full sync is in the kernel, and the agent is connected to its source (`Ready`).
    Synced,
    /// The node is served from the last known state, because the agent lost its source (`Ready`).
    SourceDisconnected,
    /// The agent waits for its first full sync (`Ready`).
    Waiting,
    /// All calls are bypassed, because no agent ran for `--fail-open-after` (`Ready`).
    Bypassed,
    /// No agent answers (`Ready`).
    NoAgent,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Hook {
    /// The hook, such as `connect4`.
    pub(super) name: &'static str,
    /// Whether the agent's program is attached.
    pub(super) state: HookState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HookState {
    /// It is attached to the agent's cgroup.
    Attached,
    /// It is not attached.
    Missing,
    /// It is attached to another cgroup than the agent's.
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
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailOpen {
    /// How long after an agent's last sign of life calls are bypassed; absent if never.
    #[serde(with = "duration::as_text", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<duration::Text>")]
    pub(super) after: Option<Duration>,
    /// Since when calls are bypassed; absent if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bypassed_since: Option<Timestamp>,
    /// How long until they are, without another sign of life; absent if they are already, or never will be.
    #[serde(with = "duration::as_text", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<duration::Text>")]
    pub(super) remaining: Option<Duration>,
    /// Calls that were bypassed for this reason, since the maps were made.
    pub(super) bypassed_calls: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FaultCount {
    /// The fault, as in the label of `sockline_kernel_faults_total`, see [metrics](metrics.md).
    pub(super) fault: &'static str,
    /// How often it happened.
    pub(super) count: u64,
}

impl StatusReport {
    pub(super) fn gather(
        snapshot: &Snapshot,
        agent: anyhow::Result<Status>,
    ) -> anyhow::Result<Self> {
        let record = snapshot.agent()?;
        let process = match &agent {
            Ok(status) => Process::Answers(status),
            Err(error) if snapshot.agent_runs()? => Process::Silent(error),
            Err(_) => Process::Gone,
        };
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
                agent_running(&process, &fail_open),
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

/// The agent's process, as its socket and the lock on the pins tell.
enum Process<'a> {
    Answers(&'a Status),
    /// It holds the lock, but its socket does not answer.
    Silent(&'a anyhow::Error),
    Gone,
}

fn agent_running(process: &Process<'_>, fail_open: &FailOpen) -> Condition {
    let (status, reason, message) = match process {
        Process::Answers(agent) => (
            ConditionStatus::True,
            Reason::Running,
            format!(
                "version {}, process {}, for {}",
                agent.version,
                agent.pid,
                duration::format_age(agent.start_time)
            ),
        ),
        Process::Silent(error) => (
            ConditionStatus::True,
            Reason::NotResponding,
            Escaped(format!("{error:#}")).to_string(),
        ),
        Process::Gone if fail_open.bypassed_since.is_some() => {
            (ConditionStatus::False, Reason::NotRunning, "all calls are bypassed".into())
        }
        Process::Gone => (
            ConditionStatus::False,
            Reason::NotRunning,
            "the kernel keeps serving what it has".into(),
        ),
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
        (ConditionStatus::True, Reason::Attached, format!("all {} attached", hooks.len()))
    } else {
        (
            ConditionStatus::False,
            Reason::NotAttached,
            format!("{} of {} NOT attached: {}", bad.len(), hooks.len(), bad.join(", ")),
        )
    };
    Condition { kind: ConditionType::HooksAttached, status, reason, message }
}

fn ready(agent: Option<&Status>, fail_open: &FailOpen) -> Condition {
    let bypassed = fail_open.bypassed_since.is_some();
    let (status, reason, message) = match agent {
        _ if bypassed => {
            (ConditionStatus::False, Reason::Bypassed, "all calls are bypassed".into())
        }
        None => (ConditionStatus::Unknown, Reason::NoAgent, "only the agent knows".into()),
        Some(agent) if !agent.ready => (ConditionStatus::False, Reason::Waiting, agent.waiting()),
        Some(agent) => match agent.out_of_touch() {
            None => (ConditionStatus::True, Reason::Synced, String::new()),
            Some(age) => (
                ConditionStatus::True,
                Reason::SourceDisconnected,
                format!(
                    "with the state of {} ago: not connected to the source since then",
                    duration::format_seconds(age)
                ),
            ),
        },
    };
    Condition { kind: ConditionType::Ready, status, reason, message }
}
