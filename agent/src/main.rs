//! The `sockline` command: reads the command line and hands over to the library.

use std::process::ExitCode;

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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Plan(args) => plan::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all causes; a backtrace says nothing to a user.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
