//! Network configuration through iproute2, one process per namespace and batch.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::Ns;

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
