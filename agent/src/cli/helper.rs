//! `sockline helper` and `sockline helper-worker`: what the agent starts beside itself.

use std::path::PathBuf;

use clap::Args;

use crate::{
    helper::{self, Setup},
    sock_destroy::Method,
};

/// Start what answers an agent's requests; the agent starts this itself.
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

/// Supervises.
///
/// # Errors
/// When the process cannot be set up.
pub fn supervise(args: HelperArgs) -> anyhow::Result<()> {
    helper::supervise(&args.into())
}

/// Answers an agent's requests on standard input.
///
/// # Errors
/// When the process cannot be set up or go on, or the agent writes what is no request.
pub fn work(args: HelperArgs) -> anyhow::Result<()> {
    helper::serve(&args.into())
}
