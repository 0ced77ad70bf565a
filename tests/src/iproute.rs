//! Network configuration through iproute2, one process per namespace and batch.

use std::{
    fs,
    io::Write,
    net::Ipv6Addr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{DEADLINE, Ns, wait_ok};

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
    /// Waits until a device of this namespace transmits.
    ///
    /// Of the two ends of a veth pair, the one that was set up first learns of the other from a worker
    /// of the kernel (linkwatch), later when the machine is busy. Until then it is up, and drops
    /// every packet.
    ///
    /// # Errors When that does not happen in time.
    pub fn wait_for_carrier(&self, device: &str) -> Result<()> {
        wait_ok(DEADLINE, &format!("{device} to have a carrier"), || {
            let shown = self.output(Command::new("ip").args(["-o", "link", "show", device]))?;
            let line = String::from_utf8_lossy(&shown.stdout).into_owned();
            if line.contains(" state UP ") { Ok(()) } else { Err(anyhow::anyhow!(line)) }
        })
    }
}

/// RTF_LOCAL of linux/ipv6_route.h.
const LOCAL: u32 = 0x8000_0000;

/// Waits until a namespace receives packets for one of its IPv6 addresses.
///
/// The address can be sent from at once, but a worker of the kernel adds the local route, even without
/// duplicate address detection (`nodad`). Until then packets are dropped.
pub(crate) fn wait_for_local_route(ns: &Ns, address: Ipv6Addr) -> Result<()> {
    let hex: String = address.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    wait_ok(DEADLINE, &format!("the local route of {address}"), || {
        let routes = ns.run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"))?;
        let is_there = routes.lines().filter(|line| line.starts_with(&hex)).any(|line| {
            let flags = line.split_whitespace().nth(8);
            flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0) & LOCAL != 0
        });
        if is_there { Ok(()) } else { Err(anyhow::anyhow!(routes)) }
    })
}

/// Sets sysctls under `/proc/sys/net`, which shows the namespace of the thread that opens it.
pub(crate) fn sysctl(ns: &Ns, settings: &[(&str, &str)]) -> Result<()> {
    ns.run(|| {
        for (name, value) in settings {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
        }
        Ok(())
    })
}
