//! `sockline services`: the service addresses that the kernel serves.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::{
    node::NodeArgs,
    output::{Output, print, table},
};
use crate::{api::Document, model::plan::Frontend};

/// Show the service addresses that the kernel serves now, in the form of `sockline plan`.
///
/// Reads the pinned maps, so it also works while the agent is down.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FrontendList {
    node_name: String,
    items: Vec<Arc<Frontend>>,
}

/// # Errors
/// When nothing is pinned, or the maps cannot be read.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let snapshot = args.node.snapshot()?;
    let list = FrontendList { node_name: snapshot.agent()?.node, items: snapshot.frontends()? };
    print(&match args.node.output {
        Output::Json => Document::new("FrontendList", &list).to_text()?,
        Output::Table => table::frontends(&list.items),
    })
}
