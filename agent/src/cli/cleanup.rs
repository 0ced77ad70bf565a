//! `sockline cleanup`: leave the node as it was.

use std::path::PathBuf;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use super::output::print;
use crate::{dataplane, mounts};

/// Remove everything from the kernel: detach the programs, free the maps.
///
/// Established connections go on; new ones are no longer translated. Fails while an agent runs.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Folder in a BPF file system that the agent was given [default: the mounted one]
    #[arg(long = "bpf-root", value_name = "DIR", env = "SOCKLINE_BPF_ROOT")]
    bpffs: Option<PathBuf>,
    /// Stay until SIGTERM when done, as a pod must that Kubernetes is to count as done with its node
    #[arg(long)]
    wait: bool,
}

/// # Errors
/// When an agent runs, or something cannot be removed.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let end = args.wait.then(block_end_signals).transpose()?;
    let bpffs = mounts::bpffs_for_reading(args.bpffs.as_deref())?;
    let removed = dataplane::cleanup(&bpffs)?;
    let links = removed
        .iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "links"))
        .count();
    print(&if removed.is_empty() {
        format!("nothing to remove in {}\n", bpffs.join("sockline").display())
    } else {
        format!(
            "removed {}: {links} programs detached, {} maps freed\n",
            bpffs.join("sockline").display(),
            removed.len() - links
        )
    })?;
    if let Some(end) = end {
        end.wait()?;
    }
    Ok(())
}

/// Blocked, SIGTERM waits for whoever waits for it; the first process of a container would
/// otherwise not even be ended by it.
fn block_end_signals() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}
