//! The agent: whether it runs, whether its control loop turns, and how old its last sync is.

use std::time::{Duration, SystemTime};

use super::{CheckResult, Node};
use crate::{
    duration::format_seconds,
    source::stats::WatchState,
    status::{Reclaim, UnconfirmedServicePorts},
};

/// State without a running agent is old after this time.
const OLD: Duration = Duration::from_secs(600);

/// A watch that was cut off is normally resumed within two seconds.
const CUT_OFF: Duration = Duration::from_secs(10);
/// The API server sends a bookmark on an open watch about once a minute.
const SILENT: Duration = Duration::from_secs(180);

/// Whether an agent serves the node.
pub fn check(node: &Node<'_>) -> Vec<CheckResult> {
    let check = "agent.running";
    let Some(status) = &node.status else {
        let result = if node.agent_runs {
            CheckResult::failed(
                check,
                format!(
                    "process {} holds the pins, but {}",
                    node.record.pid,
                    node.silence.as_deref().unwrap_or("it does not answer"),
                ),
                "look at the agent's log; if the agent has another --admin-socket, pass it to this command, too",
            )
        } else {
            CheckResult::warning(
                check,
                "not running; the kernel serves the last known state, and nothing follows the cluster",
                "start `sockline agent`; in a cluster look at its pod on this node",
            )
        };
        return vec![result];
    };
    let mut results =
        vec![CheckResult::ok(check, format!("version {}, process {}", status.version, status.pid))];
    results.push(match &node.info {
        Some(info) if !info.alive => CheckResult::failed(
            "agent.control-loop",
            "stuck",
            "look at the agent's log for its last step, and restart it",
        ),
        Some(_) => CheckResult::ok("agent.control-loop", "turns"),
        None => CheckResult::warning(
            "agent.control-loop",
            format!("an agent of version {} does not report it", status.version),
            format!(
                "use the `sockline` of the agent, or update the agent to {}",
                env!("CARGO_PKG_VERSION")
            ),
        ),
    });
    results.push(if status.ready {
        ready(&status.unconfirmed_service_ports)
    } else {
        CheckResult::failed(
            "agent.ready",
            format!("waits for the first full sync from {}", status.source),
            "look at the agent's log for why the source cannot be read",
        )
    });
    results
}

/// The state of an agent after its first full sync: whether it confirmed all that is in the kernel.
fn ready(unconfirmed: &UnconfirmedServicePorts) -> CheckResult {
    let check = "agent.ready";
    match unconfirmed.in_words() {
        None => CheckResult::ok(check, "the first full sync is in the kernel"),
        Some(services) => CheckResult::warning(
            check,
            format!("the first full sync is in the kernel; {services}"),
            "correct what `sockline status` lists under SOURCE ERRORS and INVALID OBJECTS",
        ),
    }
}

/// Whether all calls are bypassed because no agent renews the deadline.
pub fn fail_open(node: &Node<'_>) -> CheckResult {
    let check = "agent.fail-open";
    let deadline = match node.snapshot.deadline() {
        Ok(deadline) => deadline,
        Err(error) => {
            return CheckResult::failed(
                check,
                format!("{:#}", anyhow::Error::from(error)),
                "restart the agent, which creates what is missing",
            );
        }
    };
    if let Some(past) = deadline.bypassed_for() {
        return CheckResult::failed(
            check,
            format!(
                "all calls have been bypassed for {}; kube-proxy serves them",
                format_seconds(past)
            ),
            "start `sockline agent`; if it runs, look at its log for why it has not synced, or where its \
             control loop is stuck",
        );
    }
    CheckResult::ok(
        check,
        match (deadline.after, deadline.left()) {
            (Some(after), Some(left)) => format!(
                "after {} without an agent all calls are bypassed; {} are left",
                format_seconds(after),
                format_seconds(left)
            ),
            (Some(after), None) => format!(
                "after {} without an agent all calls are bypassed, once an agent has synced",
                format_seconds(after)
            ),
            _ => "off: without an agent, the last known state is served without a limit of time"
                .into(),
        },
    )
}

/// How old the kernel's state is, and whether all of the plan is in it.
pub fn state(node: &Node<'_>) -> Vec<CheckResult> {
    let check = "state.age";
    let age = match node.record.last_sync {
        None => CheckResult::failed(
            check,
            "no agent has synced yet",
            "look at the agent's log; nothing is served before the first full sync",
        ),
        Some(synced) => {
            let age = SystemTime::now().duration_since(synced).unwrap_or_default();
            let message = format!("last changed {} ago", format_seconds(age));
            if node.status.is_none() && age > OLD {
                CheckResult::warning(
                    check,
                    format!("{message}, and no agent follows the cluster"),
                    "start the agent: endpoints that were removed since then are still served",
                )
            } else {
                CheckResult::ok(check, message)
            }
        }
    };
    let mut results = vec![age];
    let Some(status) = &node.status else { return results };
    results.extend(source(&status.watches));
    results.extend(status.node_addresses_error.as_ref().map(|error| {
        CheckResult::warning(
            "state.node-addresses",
            error,
            "look at the agent's seccomp profile and its limit of open files; it retries every 5 seconds",
        )
    }));
    results.push(reclaim(&status.reclaim));
    results.push(match &status.out_of_sync[..] {
        [] => CheckResult::ok("state.complete", "the last sync wrote all of the plan"),
        [first, rest @ ..] => CheckResult::failed(
            "state.complete",
            match rest.len() {
                0 => format!("not in the kernel: {first}"),
                more => format!("not in the kernel: {first}, and {more} more"),
            },
            "`sockline status` lists all of them; a full map needs a higher --max-frontends or \
             --max-backends",
        ),
    });
    results.push(match &status.invalid_objects[..] {
        [] => CheckResult::ok("state.input", "all objects are valid"),
        [first, rest @ ..] => CheckResult::warning(
            "state.input",
            match rest.len() {
                0 => first.to_string(),
                more => format!("{first}, and {more} more"),
            },
            "correct the objects that `sockline status` names",
        ),
    });
    results
}

/// Whether freed map entries are reclaimed.
fn reclaim(reclaim: &Reclaim) -> CheckResult {
    let check = "state.reclaim";
    let remedy = "look at the agent's capabilities (CAP_BPF) and its seccomp profile (bpf); until then, the \
                maps fill up with each change";
    match reclaim {
        Reclaim::Works => CheckResult::ok(check, "freed map entries are reclaimed"),
        Reclaim::Fails { message: why } => {
            CheckResult::failed(check, format!("cannot wait for running programs: {why}"), remedy)
        }
        Reclaim::CannotTell { message: why } => {
            CheckResult::warning(check, format!("unknown, the agent retries: {why}"), remedy)
        }
        Reclaim::NotTried => CheckResult::ok(check, "nothing was freed yet"),
    }
}

/// The state of the watches at the API server; `None` if the source is a folder.
fn source(watches: &[WatchState]) -> Option<CheckResult> {
    let check = "state.source";
    if watches.is_empty() {
        return None;
    }
    let silent: Vec<String> = watches
        .iter()
        .filter_map(|watch| {
            let limit = if watch.connected { SILENT } else { CUT_OFF };
            let silence = watch.age();
            silence.is_none_or(|age| age > limit).then(|| {
                silence.map_or_else(
                    || format!("{} never", watch.kind),
                    |age| format!("{} for {}", watch.kind, format_seconds(age)),
                )
            })
        })
        .collect();
    Some(if silent.is_empty() {
        CheckResult::ok(check, "all watches are connected")
    } else {
        CheckResult::warning(
            check,
            format!("no event from the API server: {}", silent.join(", ")),
            "`sockline status` has the error; until the API server is back, the last known state is served",
        )
    })
}
