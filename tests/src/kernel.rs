//! The features of the running kernel, which decide the result of some calls.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Agent, Cluster};

/// Kernel features that an agent found (`sockline status`). A separate test checks that this is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFeatures {
    /// Refusals are ECONNREFUSED (Linux 5.18).
    pub set_retval: bool,
    /// The agent knows its network namespace, where NodePorts on loopback are served (Linux 5.14). Else they
    /// are served in the initial one.
    pub netns_cookie: bool,
    /// The peer name of MPTCP sockets is translated (Linux 6.0).
    pub mptcp_sock: bool,
    /// Programs can identify the kernel's own sockets (BTF).
    pub kernel_sockets: bool,
    /// Records of sockets are in a table, so they can be counted (Linux 5.12).
    pub compare_and_swap: bool,
}

impl KernelFeatures {
    /// Reads them from what `sockline status -o json` prints.
    ///
    /// # Errors When it has none, because no agent runs.
    pub fn of_status(status: &Value) -> Result<Self> {
        let features = &status["agent"]["kernelFeatures"];
        let has = |name: &str| {
            let value = features[name].as_bool();
            value.with_context(|| format!("`sockline status` does not say {name}: {features}"))
        };
        Ok(Self {
            set_retval: has("setRetval")?,
            netns_cookie: has("netnsCookie")?,
            mptcp_sock: has("mptcpSock")?,
            kernel_sockets: has("kernelSockets")?,
            compare_and_swap: has("compareAndSwap")?,
        })
    }

    /// The error number of a call to a service without endpoints.
    #[must_use]
    pub fn refusal(self) -> i32 {
        if self.set_retval { libc::ECONNREFUSED } else { libc::EPERM }
    }
}

impl Agent {
    /// The kernel features that it found.
    ///
    /// # Errors
    /// Those of [`Agent::cli`].
    pub fn features(&self) -> Result<KernelFeatures> {
        let text = self.cli(&["status", "-o", "json"])?;
        let status =
            serde_json::from_str(&text).context("reading what `sockline status` prints")?;
        KernelFeatures::of_status(&status)
    }
}

impl Cluster {
    /// The kernel features that its agent found.
    ///
    /// # Errors
    /// Those of [`Agent::cli`].
    pub fn features(&self) -> Result<KernelFeatures> {
        self.agent().features()
    }
}

/// The version of the running kernel, such as `(6, 12)`.
///
/// # Errors When the kernel's release is not a version.
pub fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("reading /proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => bail!("{:?} is no version", release.trim()),
    }
}
