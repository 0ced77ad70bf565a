//! `sockline check`: whether this node works. It connects to a probe service through the hooks, and checks
//! everything that this needs.
//!
//! Each file has one family of checks and returns their results; [`run`], which the command calls, puts them in order.
//! The checks read the node through `dataplane` and ask the agent through `admin`.
//!
//! - The agent: `agent` (whether it runs and syncs), `permissions` (what it may do), `drift` (whether the maps match its
//!   plan), `termination` (whether it closes sockets of removed backends).
//! - The kernel: `kernel` (version and features), `cgroup` and `links` (where the programs are attached), `pins` and `maps`
//!   (what is kept in the kernel, and how full it is), `nested` (clusters inside of pods).
//! - A connection: `live` connects to the probe service.
//! - `result` is what a check returns. `readiness`, for `/healthz` and `/readyz`, runs in the agent.
//!
//! Invariants: a check changes nothing but the probe service, which it removes. The name of a check is stable.

mod agent;
mod cgroup;
mod drift;
mod kernel;
mod links;
mod live;
mod maps;
mod nested;
mod permissions;
mod pins;
mod readiness;
mod result;
mod termination;

use std::path::{Path, PathBuf};

pub use self::{
    live::{is_below, probe},
    readiness::Readiness,
    result::{CheckResult, State},
};
use crate::{
    admin::{self, AgentInfo},
    dataplane::{AgentRecord, Snapshot},
    escape::Escaped,
    status::Status,
};

/// What to check, and how.
#[derive(Debug, Clone)]
pub struct Options {
    pub admin_socket: PathBuf,
    /// The cgroup whose sockets should be served; the root of cgroup v2 if `None`.
    pub cgroup: Option<PathBuf>,
    /// Only the cheap checks: the agent and the links.
    pub quick: bool,
}

/// What all checks use of a node.
struct Node<'a> {
    snapshot: &'a Snapshot,
    record: AgentRecord,
    admin_socket: &'a Path,
    /// Whether a process holds the lock on the pins.
    agent_runs: bool,
    /// The agent's status; `None` if it does not answer, or the answer cannot be parsed.
    status: Option<Status>,
    /// Why there is no status.
    silence: Option<String>,
    /// `None` also for an agent of an older version.
    info: Option<AgentInfo>,
}

/// Runs the checks.
///
/// # Errors
/// When the node cannot be read at all.
pub fn run(snapshot: &Snapshot, options: &Options) -> anyhow::Result<Vec<CheckResult>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = &options.admin_socket;
    let (status, silence) = match runtime.block_on(admin::status(socket)) {
        Ok(status) => (Some(status), None),
        Err(error) => (None, Some(Escaped(format!("{error:#}")).to_string())),
    };
    let node = Node {
        snapshot,
        record: snapshot.agent()?,
        admin_socket: socket,
        silence,
        agent_runs: snapshot.agent_runs()?,
        status,
        info: runtime.block_on(admin::info(socket)).ok(),
    };
    let mut results = agent::check(&node);
    let fail_open = agent::fail_open(&node);
    // The connects cannot succeed then.
    let is_bypassed = fail_open.state == State::Failed;
    results.push(fail_open);
    if options.quick {
        results.extend(links::check(&node));
        return Ok(results);
    }
    results.extend(agent::state(&node));
    results.extend(kernel::check(&node.record));
    results.extend(permissions::check(&node));
    results.extend(termination::check(&node));
    results.push(cgroup::check(&node.record.cgroup, options.cgroup.as_deref()));
    results.extend(links::check(&node));
    results.extend(links::foreign(&node));
    results.extend(nested::check(&node));
    results.extend(pins::check(snapshot.pins()));
    results.extend(maps::check(&node));
    results.push(drift::check(&node, &runtime));
    if !is_bypassed {
        results.extend(live::check(&node, &runtime));
    }
    Ok(results)
}
