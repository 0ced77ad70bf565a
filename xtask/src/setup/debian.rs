//! The route through Debian's package rust-src, for machines whose rustup cannot download.
//!
//! Its newest versions are in suites the machine does not use, so nothing is installed: the
//! package is downloaded with package lists of its own, unpacked, and linked.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::rust_src::PLACE;
use crate::{process, repo, term};

/// Where Debian carries recent compilers, the smallest package list first.
const SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

/// Unpacks Debian's sources of this Rust version below a sysroot.
pub(super) fn install(version: &str, sysroot: &Path) -> Result<String> {
    let archive = archive_of_machine()?;
    let mut seen = Vec::new();
    for suite in SUITES {
        let scratch = tempfile::tempdir().context("making a temporary folder")?;
        let apt = Apt::new(scratch.path(), &archive, suite)?;
        term::doing("rust-src", &format!("reading Debian's package lists of {suite}"));
        let offered = match apt.versions() {
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
        let package = apt.download(wanted)?;
        unpack(&package, version, sysroot)?;
        return Ok(format!("Debian's rust-src {wanted}, unpacked"));
    }
    bail!("no suite of Debian has rust-src {version}: {}", seen.join("; "))
}

/// `1.95.0+dfsg1-2~bpo13+1` → `1.95.0`.
fn upstream(debian_version: &str) -> &str {
    debian_version.split(['+', '-', '~']).next().unwrap_or(debian_version)
}

/// `apt-get` with sources, lists and caches in a scratch folder, so that the system's stay as they
/// are and no root is needed.
struct Apt<'a> {
    scratch: &'a Path,
}

impl<'a> Apt<'a> {
    fn new(scratch: &'a Path, archive: &str, suite: &str) -> Result<Self> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(scratch.join(dir)).context("making apt's folders")?;
        }
        let keyring = ["pgp", "gpg"]
            .map(|kind| format!("/usr/share/keyrings/debian-archive-keyring.{kind}"))
            .into_iter()
            .find(|path| Path::new(path).exists());
        let options = keyring.map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        fs::write(scratch.join("sources.list"), format!("deb {options}{archive} {suite} main\n"))
            .context("writing apt's source line")?;
        let apt = Self { scratch };
        Ok(apt)
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut apt = repo::command(program)?;
        apt.current_dir(self.scratch);
        let at = |name: &str| self.scratch.join(name).display().to_string();
        for setting in [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            // apt's own user cannot enter a private temporary folder.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=true".to_owned(),
            // Only the list of packages is needed.
            "Acquire::Languages=none".to_owned(),
        ] {
            apt.arg("-o").arg(setting);
        }
        Ok(apt)
    }

    fn versions(&self) -> Result<Vec<String>> {
        // Without this option a source that cannot be reached is only a warning.
        process::output(self.command("apt-get")?.args([
            "update",
            "-o",
            "APT::Update::Error-Mode=any",
        ]))?;
        let table = process::output(self.command("apt-cache")?.args(["madison", "rust-src"]))?;
        // `rust-src | <version> | <source>`
        let versions: Vec<String> = table
            .lines()
            .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
            .collect();
        if versions.is_empty() {
            bail!("no package rust-src");
        }
        Ok(versions)
    }

    fn download(&self, version: &str) -> Result<PathBuf> {
        process::output(
            self.command("apt-get")?.arg("download").arg(format!("rust-src={version}")),
        )?;
        fs::read_dir(self.scratch)
            .context("reading the download folder")?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
            .context("apt-get download left no package")
    }
}

/// Unpacks beside the place and links it there, so that removing one folder undoes it.
fn unpack(package: &Path, version: &str, sysroot: &Path) -> Result<()> {
    let place = sysroot.join(PLACE);
    let parent = place.parent().context("the sources' place has a parent")?;
    let unpacked = parent.join(format!("debian-{version}"));
    fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    process::output(repo::command("dpkg")?.arg("-x").arg(package).arg(&unpacked))?;
    let sources = unpacked.join(format!("usr/src/rustc-{version}"));
    if !sources.join("library/Cargo.lock").is_file() {
        bail!("Debian's package has no {}", sources.join("library/Cargo.lock").display());
    }
    // A broken link of an earlier attempt, or a folder without its contents.
    if place.symlink_metadata().is_ok() {
        let aside = parent.join("rust.replaced-by-xtask-setup");
        fs::rename(&place, &aside)
            .with_context(|| format!("moving the incomplete {} aside", place.display()))?;
    }
    symlink(&sources, &place).with_context(|| format!("linking {}", place.display()))
}

/// The address of the Debian archive this machine installs from: the one its own release is in.
fn archive_of_machine() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
        .context("/etc/os-release names no Debian release")?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|entry| entry.path()));
    }
    files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| archive_of(&text, codename))
        .with_context(|| format!("no apt source of this machine has the suite {codename}"))
}

/// The archive of a suite's component main, from a source file in either of apt's formats.
fn archive_of(sources: &str, suite: &str) -> Option<String> {
    let one_line = sources.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, of_suite) = (words.next()?, words.next()?);
        (of_suite == suite && words.any(|word| word == "main")).then(|| uri.to_owned())
    });
    one_line.or_else(|| sources.split("\n\n").find_map(|stanza| archive_of_stanza(stanza, suite)))
}

fn archive_of_stanza(stanza: &str, suite: &str) -> Option<String> {
    let words = |field: &str| {
        stanza
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let has = |field, word: &str| words(field).iter().any(|found| found == word);
    let usable = has("Types", "deb") && has("Suites", suite) && has("Components", "main");
    usable.then(|| words("URIs").into_iter().next()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_is_what_comes_before_debians_part() {
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream("1.95.0-1"), "1.95.0");
    }

    #[test]
    fn the_archive_is_read_from_one_line_sources() {
        let text = "# deb http://old.example/debian bookworm main\n\
                    deb http://security.example/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm contrib main\n";
        assert_eq!(archive_of(text, "bookworm").as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(archive_of(text, "trixie"), None);
    }

    #[test]
    fn the_archive_is_read_from_stanzas() {
        let text = "Types: deb\nURIs: http://security.example/x\nSuites: bookworm-security\n\
                    Components: main\n\n\
                    Types: deb deb-src\n# URIs: http://snapshot.example\n\
                    URIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\n";
        assert_eq!(archive_of(text, "bookworm").as_deref(), Some("http://mirror.example/debian"));
    }
}
