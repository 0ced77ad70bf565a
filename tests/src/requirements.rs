//! The requirements of the testbed, checked first: a missing privilege is an error, never a skipped test.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use nix::unistd::Uid;

/// Checks for root and for `ip`. The modules for cgroups and bpffs report their own requirements.
pub(crate) fn check() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "making network namespaces, cgroups and BPF programs needs root, and this process is \
             not: run it with `sudo -E env PATH=$PATH cargo xtask test`"
        );
    }
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = ip {
        bail!("`ip` (package iproute2) cannot be run ({error}): run `cargo xtask setup`");
    }
    Ok(())
}
