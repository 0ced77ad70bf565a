//! `sockline cleanup`: removes everything from the kernel.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use super::output::print;
use crate::{
    dataplane::{self, Pins},
    mounts,
};

/// Remove everything from the kernel: detach the programs, free the maps.
///
/// Established connections continue; new ones are no longer translated. Fails while an agent runs.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// The agent's folder in a BPF file system [default: the mounted one]
    #[arg(long, value_name = "DIR", env = "SOCKLINE_BPF_ROOT")]
    bpf_root: Option<PathBuf>,
    /// After cleanup, block until SIGTERM so that the pod stays ready
    #[arg(long)]
    wait: bool,
}

/// # Errors
/// When an agent runs, or something cannot be removed.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let end =
        args.wait.then(block_end_signals).transpose().context("blocking SIGTERM and SIGINT")?;
    let bpffs = mounts::bpffs_for_reading(args.bpf_root.as_deref())?;
    let removed = dataplane::cleanup(&bpffs)?;
    let links = removed.iter().filter(|pin| Pins::is_of_link(pin)).count();
    let pins = Pins::in_bpffs(&bpffs);
    let root = pins.root().display();
    print(&if removed.is_empty() {
        format!("nothing to remove in {root}\n")
    } else {
        let maps = removed.len() - links;
        format!("removed {root}: {links} programs detached, {maps} maps freed\n")
    })?;
    if let Some(end) = end {
        end.wait().context("waiting for SIGTERM or SIGINT")?;
    }
    Ok(())
}

/// Blocks SIGTERM and SIGINT, so that they stay pending until `sigwait`. The first process of a container would
/// otherwise ignore them.
fn block_end_signals() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}
