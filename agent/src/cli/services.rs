//! `sockline services`: the service addresses that the kernel serves.

use clap::Args;

use super::{node::NodeArgs, output::print, plan};
use crate::model::plan::Plan;

/// Show the service addresses that the kernel serves now, as `sockline plan` shows them.
///
/// Reads the pinned maps, so it works without a running agent.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// # Errors
/// When nothing is pinned, or the maps cannot be read.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let view = args.node.view()?;
    let plan = Plan { node: view.agent()?.node.into(), frontends: view.frontends()? };
    print(&plan::render(&plan, args.node.output)?)
}
