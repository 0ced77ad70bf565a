//! `sockline services`: the service addresses that the kernel serves.

use std::sync::Arc;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    node::ListArgs,
    output::{ListOutput, live, print, table},
};
use crate::{
    api::{Document, Kind},
    model::plan::Frontend,
};

/// List the service addresses in the kernel, in the format of `sockline plan`.
///
/// Reads the pinned maps, so it also works while the agent is down.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    list: ListArgs,
}

/// The service addresses that the kernel serves now, in the form of a `Plan`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrontendList {
    /// The name of this node's Node object, as the last agent had it.
    node_name: String,
    /// The service addresses, sorted by Service, port name, family, address, port and protocol.
    items: Vec<Arc<Frontend>>,
}

impl Kind for FrontendList {
    const KIND: &'static str = "FrontendList";
}

/// # Errors
/// When nothing is pinned, or the maps cannot be read.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let snapshot = args.list.snapshot()?;
    let list = FrontendList { node_name: snapshot.agent()?.node, items: snapshot.frontends()? };
    print(&match args.list.output {
        ListOutput::Json => Document::new(&list).to_text()?,
        ListOutput::Table => table::frontends(&list.items),
        ListOutput::Wide => live::frontends(&list.items, &snapshot.counters()?.services()?),
    })
}
