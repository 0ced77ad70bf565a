//! The command line: one subcommand for each file.
//!
//! `main` parses it and calls the subcommand. A subcommand turns its options into the types of the folder that does the
//! work (`agent`, `check`, `dataplane`, `source`), and prints the result as a table or as JSON.
//!
//! - The node's agent: `agent` (`client_metrics` are some of its options), `helper` (the processes that it starts),
//!   `log_level`, `cleanup`.
//! - What a node has: `status`, `services`, `backends`; `plan` is what it would have.
//! - Whether it works, and why: `check`, `trace`.
//! - Traffic: `top`, `watch`, `map`.
//! - What several commands use: `node` and `target` (options, and the service port that is meant), `environment` and
//!   `renamed` (variables, and names of version 0.1), `output` (tables and JSON), `documents` (the schemas of `-o json`).
//!
//! Invariants: text from outside is escaped before it is printed. Nothing below `cli` uses it.

pub mod agent;
pub mod backends;
pub mod check;
pub mod cleanup;
mod client_metrics;
pub mod documents;
pub mod environment;
pub mod helper;
pub mod log_level;
pub mod map;
mod node;
pub mod output;
pub mod plan;
pub mod renamed;
pub mod services;
pub mod status;
mod target;
pub mod top;
pub mod trace;
pub mod watch;

use clap::{Parser, Subcommand};

/// eBPF socket-level service load balancing for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "sockline", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Agent(Box<agent::AgentArgs>),
    Plan(plan::PlanArgs),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
    #[command(hide = true)]
    CheckProbe(check::ProbeArgs),
    Services(services::ServicesArgs),
    Backends(backends::BackendsArgs),
    Top(top::TopArgs),
    Map(map::MapArgs),
    Trace(trace::TraceArgs),
    Watch(watch::WatchArgs),
    LogLevel(log_level::LogLevelArgs),
    Cleanup(cleanup::CleanupArgs),
    #[command(hide = true)]
    Helper(helper::HelperArgs),
    #[command(hide = true)]
    HelperWorker(helper::HelperArgs),
}
