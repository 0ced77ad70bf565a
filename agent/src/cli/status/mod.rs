//! `sockline status`: whether this node is served, and how full the maps are.
//!
//! [`report`] reads the pinned maps and, if an agent answers on its admin socket, what only the agent knows; `text` makes
//! tables of it.

mod report;
mod text;

use clap::Args;

pub(super) use self::report::StatusReport;
use super::{
    node::NodeArgs,
    output::{Output, print},
};
use crate::{admin, api::Document};

/// Show whether this node is served: the agent, the hooks, the maps, and all errors.
///
/// Reads hooks and maps from the kernel, and the rest from the agent if it runs.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// # Errors
/// When nothing is pinned, or it cannot be read.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let snapshot = args.node.snapshot()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = runtime.block_on(admin::status(&args.node.admin_socket));
    let report = StatusReport::gather(&snapshot, agent)?;
    print(&match args.node.output {
        Output::Json => Document::new(&report).to_text()?,
        Output::Table => text::render(&report),
    })
}
