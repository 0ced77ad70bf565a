//! `sockline helper` and `sockline helper-worker`: the processes that the agent starts.

use std::path::PathBuf;

use clap::Args;

use crate::{
    helper::{self, Setup},
    sock_destroy::Method,
};

/// Supervise or run the helper process; the agent starts this.
#[derive(Debug, Args)]
pub struct HelperArgs {
    /// Folder in a BPF file system where the agent's kernel state is
    #[arg(long = "bpf-root", value_name = "DIR")]
    bpffs: PathBuf,
    /// How to close sockets, if at all
    #[arg(long, value_enum)]
    method: Option<Method>,
}

impl From<HelperArgs> for Setup {
    fn from(HelperArgs { bpffs, method }: HelperArgs) -> Self {
        Self { bpffs, method }
    }
}

/// Runs the supervisor.
///
/// # Errors
/// When the process cannot be set up.
pub fn supervise(args: HelperArgs) -> anyhow::Result<()> {
    helper::supervise(&args.into())
}

/// Runs the helper, which receives requests on standard input.
///
/// # Errors
/// When the process cannot be set up or cannot continue, or the agent sends an invalid request.
pub fn work(args: HelperArgs) -> anyhow::Result<()> {
    helper::serve(&args.into())
}
