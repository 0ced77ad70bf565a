//! Debian's package rust-src, for machines whose rustup cannot download.
//!
//! Its newest versions are in suites that the machine does not use. So the package is not installed: it is
//! downloaded with package lists of its own, unpacked, and linked.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt, Machine},
    term,
};

/// The suites with recent compilers, the smallest package list first.
const SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

const PACKAGE: &str = "rust-src";

/// Unpacks Debian's sources of this Rust version, and links `place` to them.
pub(super) fn install(version: &str, place: &Path) -> Result<String> {
    let machine = Machine::read()?;
    let mut seen = Vec::new();
    for suite in SUITES {
        let scratch = tempfile::tempdir().context("making a temporary folder")?;
        term::doing("rust-src", &format!("reading Debian's package lists of {suite}"));
        let lists = Apt::new(scratch.path(), &[machine.source(suite)]);
        let read = lists.and_then(|apt| Ok((offered_by(&apt)?, apt)));
        let (offered, apt) = match read {
            Ok(offered) => offered,
            Err(error) => {
                seen.push(format!("{suite}: {error:#}"));
                continue;
            }
        };
        let Some(wanted) = offered.iter().find(|offer| upstream(offer) == version) else {
            seen.push(format!("{suite} has {}", offered.join(", ")));
            continue;
        };
        term::doing("rust-src", &format!("downloading rust-src {wanted}"));
        let package = apt.download(PACKAGE, wanted)?;
        unpack(&package, version, place)?;
        return Ok(format!("Debian's rust-src {wanted}, unpacked"));
    }
    bail!("no suite of Debian has rust-src {version}: {}", seen.join("; "))
}

fn offered_by(apt: &Apt) -> Result<Vec<String>> {
    let versions: Vec<String> =
        apt.versions(&[PACKAGE.to_owned()])?.into_iter().map(|(_, version)| version).collect();
    if versions.is_empty() {
        bail!("no package {PACKAGE}");
    }
    Ok(versions)
}

/// `1.95.0+dfsg1-2~bpo13+1` → `1.95.0`.
fn upstream(debian_version: &str) -> &str {
    debian_version.split(['+', '-', '~']).next().unwrap_or(debian_version)
}

/// Unpacks beside the place and links it there: to undo that, remove one folder.
fn unpack(package: &Path, version: &str, place: &Path) -> Result<()> {
    let parent = place.parent().context("the sources' place has a parent")?;
    let unpacked = parent.join(format!("debian-{version}"));
    apt::unpack(package, &unpacked)?;
    let sources = unpacked.join(format!("usr/src/rustc-{version}"));
    if !sources.join("library/Cargo.lock").is_file() {
        bail!("Debian's package has no {}", sources.join("library/Cargo.lock").display());
    }
    // A broken link of an earlier attempt, or an incomplete folder.
    if place.symlink_metadata().is_ok() {
        let aside = parent.join("rust.replaced-by-xtask-setup");
        fs::rename(place, &aside)
            .with_context(|| format!("moving the incomplete {} aside", place.display()))?;
    }
    symlink(&sources, place).with_context(|| format!("linking {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_is_what_comes_before_debians_part() {
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream("1.95.0-1"), "1.95.0");
    }
}
