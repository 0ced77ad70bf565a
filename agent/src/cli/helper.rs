//! `sockline helper`: what the agent starts beside itself.

use std::path::PathBuf;

use clap::Args;

use crate::helper::{self, Method, Setup};

/// Answer an agent's requests on standard input; the agent starts this itself.
#[derive(Debug, Args)]
pub struct HelperArgs {
    /// Folder in a BPF file system where the agent's kernel state is
    #[arg(long, value_name = "DIR")]
    bpffs: PathBuf,
    /// How to close sockets, if at all
    #[arg(long, value_enum)]
    method: Option<Method>,
}

/// # Errors
/// When the process cannot be set up, or the agent writes what is no request.
pub fn run(args: HelperArgs) -> anyhow::Result<()> {
    helper::serve(&Setup { bpffs: args.bpffs, method: args.method })
}
