//! `sockline check`: whether this node works.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print, print_error, table},
};
use crate::{
    api::{Document, Kind},
    check::{self, CheckResult, Options, State},
    escape::Escaped,
};

/// Prove that this node works: connect to a private probe service through the hooks, from a fresh
/// cgroup and from the host, over TCP and UDP and both families.
///
/// Also checks the agent, the age and completeness of the state, the kernel, permissions, the cgroup, the links
/// (attached to the live cgroup, and other programs there), the pins, the usage of the maps, and whether they match
/// the plan. Each line has a state (ok, warning or failed), a detail, and what to do.
///
/// The probe service has an unused address (198.51.100.0/24, 2001:db8::/32) and exists only while the check
/// connects. The command needs root, and the cgroup and BPF file systems of the host.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:\n  \
    0  all is ok, or there are only warnings\n  \
    1  something failed\n  \
    2  cannot check: not root, or no agent has run here")]
pub struct CheckArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// cgroup whose sockets should be served [default: the root of cgroup v2, found in the mount
    /// table]
    #[arg(long = "cgroup-root", value_name = "DIR", env = "SOCKLINE_CGROUP_ROOT")]
    cgroup: Option<PathBuf>,
    /// Check only the agent and the links, as /readyz does
    #[arg(long)]
    quick: bool,
}

/// Connect from a cgroup; `sockline check` starts this.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The cgroup to connect from
    #[arg(long = "cgroup-root", value_name = "DIR")]
    cgroup: Option<PathBuf>,
}

/// Prints the results. The exit status is the worst of them.
pub fn run(args: &CheckArgs) -> ExitCode {
    match gather_and_print(args) {
        Ok(State::Ok | State::Warning) => ExitCode::SUCCESS,
        Ok(State::Failed) => ExitCode::from(1),
        Err(error) => {
            print_error(format_args!("error: {}", Escaped(format!("{error:#}"))));
            ExitCode::from(2)
        }
    }
}

/// # Errors
/// When it cannot connect from there at all.
pub fn probe(args: &ProbeArgs) -> anyhow::Result<()> {
    check::probe::run(args.cgroup.as_deref())
}

fn gather_and_print(args: &CheckArgs) -> anyhow::Result<State> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "sockline check must run as root: it reads pinned maps and moves processes between cgroups"
    );
    let view = args.node.snapshot()?;
    let options = Options {
        admin_socket: args.node.admin_socket.clone(),
        cgroup: args.cgroup.clone(),
        quick: args.quick,
    };
    let results = check::run(&view, &options)?;
    print(&match args.node.output {
        Output::Json => {
            let report = CheckReport { node_name: view.agent()?.node, results: &results };
            Document::new(report).to_text()?
        }
        Output::Table => render(&results),
    })?;
    Ok(results.iter().map(|result| result.state).max().unwrap_or(State::Ok))
}

/// The results of `sockline check`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckReport<'a> {
    /// The name of this node's Node object, as the last agent had it.
    node_name: String,
    /// The result of each check, in the order of the table. The exit status is 1 if one of them failed.
    results: &'a [CheckResult],
}

impl Kind for CheckReport<'_> {
    const KIND: &'static str = "CheckReport";
}

fn render(results: &[CheckResult]) -> String {
    let mut lines = table::new(&["STATE", "CHECK", "DETAIL"]);
    for result in results {
        lines.add_row([result.state.as_str(), &result.check, &result.message]);
        if let Some(remedy) = &result.remedy {
            lines.add_row(["", "", &format!("→ {remedy}")]);
        }
    }
    let count = |state| results.iter().filter(|result| result.state == state).count();
    let (failed, warnings) = (count(State::Failed), count(State::Warning));
    let summary = match (failed, warnings) {
        (0, 0) => format!("all {} checks are ok", results.len()),
        (_, 1) => format!("{failed} failed, 1 warning, {} ok", count(State::Ok)),
        _ => format!("{failed} failed, {warnings} warnings, {} ok", count(State::Ok)),
    };
    format!("{}\n{summary}\n", table::render(&lines))
}
