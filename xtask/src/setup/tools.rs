//! Ready-made tools: rustfmt and clippy from rustup, the others from the distribution.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Args, root};
use crate::{
    apt::{self, Apt},
    cargo, process, repo,
};

pub(super) fn find_components(_: &Args) -> Result<Option<String>> {
    // Asks cargo, because rustup's proxies exist even without their components.
    for tool in ["fmt", "clippy"] {
        if process::output(&mut cargo::command(&[tool, "--version"])?).is_err() {
            return Ok(None);
        }
    }
    Ok(Some("of the pinned toolchain".to_owned()))
}

pub(super) fn add_components(_: &Args) -> Result<String> {
    let mut rustup = repo::command("rustup")?;
    process::run(rustup.args(["component", "add", "rustfmt", "clippy"])).context(
        "without rustup, install rustfmt and clippy of the compiler that rust-toolchain.toml pins",
    )?;
    Ok("rustup component add".to_owned())
}

pub(super) fn find_ip(_: &Args) -> Result<Option<String>> {
    let mut ip = repo::command("ip")?;
    Ok(process::output(ip.arg("-V")).ok().map(|version| {
        let package = version.rsplit(' ').find(|word| word.contains("iproute2"));
        package.unwrap_or(&version).trim_end_matches(',').to_owned()
    }))
}

pub(super) fn install_ip(_: &Args) -> Result<String> {
    install_packages(&["iproute2"])
        .context("install the package that has the command `ip` by hand")?;
    Ok("apt-get install iproute2".to_owned())
}

/// Tests use it to kill the agent at system calls.
pub(super) fn find_strace(_: &Args) -> Result<Option<String>> {
    let mut strace = repo::command("strace")?;
    let version = process::output(strace.arg("-V")).ok();
    // "strace -- version 6.1"
    Ok(version.and_then(|text| text.lines().next()?.rsplit(' ').next().map(ToOwned::to_owned)))
}

pub(super) fn install_strace(_: &Args) -> Result<String> {
    install_packages(&["strace"]).context("install the package strace by hand")?;
    Ok("apt-get install strace".to_owned())
}

/// Tests of the alerts and dashboards run it. It is not installed, because the package starts a server.
pub(super) fn find_prometheus(_: &Args) -> Result<Option<String>> {
    let unpacked = prometheus_folder().join("usr/bin/prometheus");
    let program = if unpacked.is_file() { unpacked.as_path() } else { Path::new("prometheus") };
    let mut prometheus = repo::command(&program.display().to_string())?;
    let version = process::output(prometheus.arg("--version")).ok();
    // "prometheus, version 2.42.0+ds (branch: …"
    let version = version.as_deref().and_then(|text| text.lines().next()?.split(' ').nth(2));
    Ok(version.map(ToOwned::to_owned))
}

pub(super) fn install_prometheus(_: &Args) -> Result<String> {
    unpack_package("prometheus", &prometheus_folder())
        .context("install the package prometheus by hand")?;
    Ok(format!("the package prometheus, unpacked to {}", prometheus_folder().display()))
}

fn prometheus_folder() -> PathBuf {
    repo::target_dir().join("tools/prometheus")
}

/// Installs packages of the distribution.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    let apt = |args: &[&str]| {
        let mut apt = root::command("apt-get", args)?;
        process::output(apt.env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
    };
    // A new container image has no package lists yet.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
}

/// Installs packages of a suite that the machine's sources need not have.
pub(crate) fn install_from(apt: &Apt, suite: &str, packages: &[&str]) -> Result<()> {
    let arguments = apt.install_arguments(suite, packages);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut apt = root::command("apt-get", &arguments)?;
    process::output(apt.env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}

/// Updates the package lists of the machine's own sources.
pub(crate) fn update_package_lists() -> Result<()> {
    process::output(&mut root::command("apt-get", &["update"])?).map(drop)
}

/// Downloads a package of this machine's own release and unpacks it into a folder that exists, without
/// installing it.
pub(crate) fn unpack_package(package: &str, into: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let download = || {
        let mut apt = repo::command("apt-get")?;
        apt.args(["-o", "APT::Sandbox::User=root", "download", package]);
        process::output(apt.current_dir(scratch.path()))
    };
    // A new container image has no package lists yet.
    download().or_else(|_| update_package_lists().and_then(|()| download()))?;
    let entries = fs::read_dir(scratch.path()).context("reading the download folder")?;
    let file = entries.flatten().map(|entry| entry.path()).next();
    let file =
        file.with_context(|| format!("`apt-get download` did not leave a package {package}"))?;
    apt::unpack(&file, into)
}
