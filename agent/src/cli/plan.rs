//! `sockline plan`: the plan of a node from a folder of manifests, without a cluster.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::output::{Output, print, table};
use crate::{
    api::{Document, Kind},
    escape::Escaped,
    model::{index::Index, node_addresses::NodePortScope, plan::Frontend},
    source::manifests::folder::read_folder,
};

/// Show what a node does with every service address, from a folder of manifests.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Folder with the manifests of Services, EndpointSlices and Nodes (*.yaml, *.yml, *.json)
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// The node to plan for
    #[arg(long, value_name = "NAME")]
    pub node_name: String,
    /// Plan NodePorts at the addresses of all nodes, as with the agent's option
    #[arg(long)]
    pub nodeports_of_all_nodes: bool,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// Prints the plan to stdout, and the errors of the manifests to stderr.
///
/// # Errors
/// When the folder cannot be read or the output cannot be written.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let scope =
        if args.nodeports_of_all_nodes { NodePortScope::AllNodes } else { NodePortScope::ThisNode };
    let mut index = Index::new(args.node_name.as_str()).with_node_ports(scope);
    for event in read_folder(&args.manifests)?.into_events() {
        index.apply(event);
    }
    let plan = index.plan();
    let mut warnings = io::stderr().lock();
    for input_error in index.input_errors() {
        writeln!(warnings, "warning: {}", Escaped(input_error))?;
    }
    print(&match args.output {
        Output::Json => {
            let frontends = &plan.frontends;
            Document::new(PlanReport { node_name: &args.node_name, frontends }).to_text()?
        }
        Output::Table => table::frontends(&plan.frontends),
    })
}

/// What a node does with every service address.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanReport<'a> {
    /// The node that the plan is for.
    node_name: &'a str,
    /// The service addresses, sorted by Service, port name, family, address, port and protocol.
    frontends: &'a [Arc<Frontend>],
}

impl Kind for PlanReport<'_> {
    const KIND: &'static str = "Plan";
}
