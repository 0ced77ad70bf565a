//! QEMU, and a busybox for the virtual machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::qemu;
use crate::{
    apt::{Apt, Machine},
    setup, term,
};

const PACKAGE: &str = "qemu-system-x86";

/// Finds QEMU, or installs it: from the machine's release if its version is new enough, else from the
/// backports.
pub(super) fn qemu() -> Result<()> {
    if qemu::installed()?.is_some() {
        return Ok(());
    }
    term::doing("qemu", "missing or too old, installing");
    let by_hand = || format!("installing {} 8 or newer", qemu::PROGRAM);
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let machine = Machine::read().with_context(by_hand)?;
    let release = machine.codename.as_str();
    let backports = format!("{release}-backports");
    let suites = [release.to_owned(), format!("{release}-security"), backports.clone()];
    let sources = suites.map(|suite| machine.source(&suite));
    let apt = Apt::new(folder.path(), &sources).with_context(by_hand)?;
    // Versions from backports have `~bpo`.
    let is_own = |version: &str| !version.contains("~bpo") && qemu::is_new_enough(version);
    let offers = apt.versions(&[PACKAGE.to_owned()])?;
    let suite =
        if offers.iter().any(|(_, version)| is_own(version)) { release } else { &backports };
    setup::install_from(&apt, suite, &[PACKAGE]).with_context(by_hand)?;
    let version = qemu::installed()?
        .with_context(|| format!("{suite} has no {} that is new enough", qemu::PROGRAM))?;
    term::ok("qemu", &format!("{version} (apt-get install -t {suite} {PACKAGE})"));
    Ok(())
}

/// A static busybox from this machine's package, unpacked into a folder. Installing the package would remove
/// the dynamic one.
pub(super) fn busybox(folder: &Path) -> Result<PathBuf> {
    let place = folder.join("busybox");
    if place.is_file() {
        return Ok(place);
    }
    term::doing("busybox", "downloading the package busybox-static");
    let scratch = tempfile::tempdir_in(folder).context("making a temporary folder")?;
    setup::unpack_package("busybox-static", scratch.path())?;
    let found = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| scratch.path().join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the package busybox-static has no busybox")?;
    fs::copy(&found, &place).with_context(|| format!("copying {}", found.display()))?;
    Ok(place)
}
