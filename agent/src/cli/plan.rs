//! `sockline plan`: the plan of a node from a folder of manifests, without a cluster.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use super::{
    output::{Output, print},
    table,
};
use crate::{
    escape::Escaped,
    model::{index::Index, node_addresses::NodePortScope, plan::Plan},
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
    /// Plan NodePorts at the addresses of all nodes, as the agent's option has it
    #[arg(long)]
    pub nodeports_of_all_nodes: bool,
    /// How to print the plan
    #[arg(short, long, value_enum, default_value_t)]
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
    for problem in index.problems() {
        writeln!(warnings, "warning: {}", Escaped(problem))?;
    }
    let text = render(&plan, args.output)?;
    print(&text)
}

pub(super) fn render(plan: &Plan, output: Output) -> serde_json::Result<String> {
    match output {
        Output::Table => Ok(table::plan(plan)),
        Output::Json => Ok(serde_json::to_string_pretty(plan)? + "\n"),
    }
}
