//! podman with a temporary storage.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{process, repo, setup, term};

/// The default profile of Debian's podman.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

pub(super) struct Podman {
    folder: TempDir,
}

/// Installs podman if it is missing.
pub(super) fn install() -> Result<()> {
    if !repo::has("podman")? || !repo::has("runc")? {
        term::doing("podman", "missing, installing");
        setup::install_packages(&["podman", "runc", "ca-certificates"])
            .context("installing the packages podman and runc")?;
    }
    Ok(())
}

impl Podman {
    pub(super) fn new() -> Result<Self> {
        install()?;
        Ok(Self { folder: tempfile::tempdir().context("making a temporary folder")? })
    }

    pub(super) fn command(&self) -> Result<Command> {
        let mut podman = repo::command("podman")?;
        podman
            .arg("--root")
            .arg(self.folder.path().join("storage"))
            .arg("--runroot")
            .arg(self.folder.path().join("run"))
            // crun refuses hybrid cgroup hierarchies.
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime=runc"])
            .args(["--events-backend=none", "--log-level=error"]);
        Ok(podman)
    }

    pub(super) fn output(&self, args: &[&str]) -> Result<String> {
        process::output(self.command()?.args(args))
    }

    pub(super) fn version(&self) -> Result<String> {
        let podman = self.output(&["--version"])?;
        let runc = process::output(repo::command("runc")?.arg("--version"))?;
        Ok(format!("{podman}, {}", runc.lines().next().unwrap_or_default()))
    }

    /// podman's default seccomp profile with the rule for bpf() of containerd 1.7 and Docker: these allow it with
    /// CAP_BPF, podman and CRI-O only with CAP_SYS_ADMIN.
    pub(super) fn seccomp_profile(&self) -> Result<PathBuf> {
        let text = fs::read_to_string(SECCOMP).with_context(|| format!("reading {SECCOMP}"))?;
        let mut profile: Value = serde_json::from_str(&text).context(SECCOMP)?;
        let rules = profile["syscalls"].as_array_mut().context("a profile without rules")?;
        for rule in rules.iter_mut().filter(|rule| rule["action"] == "SCMP_ACT_ERRNO") {
            if let Some(names) = rule["names"].as_array_mut() {
                names.retain(|name| name != "bpf");
            }
        }
        rules.push(json!({
            "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "args": [],
            "includes": {"caps": ["CAP_BPF"]}, "excludes": {},
        }));
        let path = self.folder.path().join("seccomp.json");
        fs::write(&path, profile.to_string())?;
        Ok(path)
    }

    pub(super) fn load(&self, archive: &Path) -> Result<String> {
        process::output(self.command()?.arg("load").arg("--quiet").arg("--input").arg(archive))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The folder cannot be removed while a container has mounts in it.
        if let Err(error) = self.output(&["rm", "--all", "--force", "--time=0"]) {
            eprintln!("podman: {error:#}");
        }
    }
}
