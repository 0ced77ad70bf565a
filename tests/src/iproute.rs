//! Network configuration through iproute2, one process per namespace and batch.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{Ns, wait_ok};

/// Runs the lines of an `ip` batch inside a namespace; the first line that fails ends it.
pub(crate) fn batch(ns: &Ns, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ns.child(&mut ip).context("starting `ip` (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).context("writing to `ip -batch -`")?;
    }
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if !output.status.success() {
        bail!(
            "`ip -batch -` in the namespace of {}: {}\n{lines}",
            ns.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

impl Ns {
    /// Waits until a device in here transmits.
    ///
    /// Of the two ends of a veth pair, the one that was set up first is told of the other by a worker
    /// of the kernel (linkwatch), later when the machine is busy. Until then it is up, and drops
    /// every packet.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn wait_for_carrier(&self, device: &str) -> Result<()> {
        wait_ok(Duration::from_secs(10), &format!("{device} to have a carrier"), || {
            let shown = self.output(Command::new("ip").args(["-o", "link", "show", device]))?;
            let line = String::from_utf8_lossy(&shown.stdout).into_owned();
            if line.contains(" state UP ") { Ok(()) } else { Err(anyhow::anyhow!(line)) }
        })
    }
}

/// Sets sysctls under `/proc/sys/net`, which shows the namespace of the thread that looks.
pub(crate) fn sysctl(ns: &Ns, settings: &[(&str, &str)]) -> Result<()> {
    ns.run(|| {
        for (name, value) in settings {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
        }
        Ok(())
    })
}
