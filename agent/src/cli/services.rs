//! `sockline services`: the service addresses that the kernel serves.

use clap::Args;

use super::{node::NodeArgs, output::print, plan};
use crate::model::plan::Plan;

/// Show the service addresses that the kernel serves now, in the terms of `sockline plan`.
///
/// Read from the pinned maps: works while the agent is down, too.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// # Errors
/// When there is nothing pinned, or it cannot be read.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let view = args.node.view()?;
    let plan = Plan { node: view.agent()?.node.into(), frontends: view.frontends()? };
    print(&plan::render(&plan, args.node.output)?)
}
