//! The `sockline` command: reads the command line and hands over to the library.

use clap::{Parser, Subcommand};
use sockline::cli::plan;

/// eBPF socket-level service load balancing for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "sockline", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Plan(plan::PlanArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Plan(args) => plan::run(&args),
    }
}
