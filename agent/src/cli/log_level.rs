//! `sockline log-level`: what the running agent logs.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, print};
use crate::{admin, api::Document};

/// Show or change what the running agent logs.
///
/// The change lasts until the agent ends; `sockline status` shows the level.
#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// The new level: off, error, warn, info, debug or trace, also by module
    /// (info,sockline::source=debug)
    #[arg(value_name = "LEVEL|FILTER")]
    filter: Option<String>,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "SOCKLINE_ADMIN_SOCKET", default_value = admin::DEFAULT_SOCKET)]
    admin_socket: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// # Errors
/// When no agent answers on the socket, or it refuses the filter.
pub fn run(args: &LogLevelArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let level = runtime.block_on(async {
        match &args.filter {
            Some(filter) => admin::set_log_level(&args.admin_socket, filter).await,
            None => admin::log_level(&args.admin_socket).await,
        }
    })?;
    print(&match args.output {
        Output::Json => Document::new(level).to_text()?,
        Output::Table => format!("{}\n", level.filter),
    })
}
