//! Debian packages of any suite, on a machine that does not use that suite: `apt-get` with sources, lists and
//! caches in a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process, repo};

/// Settings of all calls: only the list of packages, without translations and descriptions of desktop programs.
const SETTINGS: [&str; 4] = [
    "Dir::Etc::SourceParts=/dev/null",
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    // apt's own user cannot enter a private temporary folder.
    "APT::Sandbox::User=root",
];

/// The component `main` of a suite, and its archive.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) archive: String,
    pub(crate) suite: String,
}

/// `apt-get` with some sources. Leaves the system's lists and caches alone.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads the package lists of the sources into a folder.
    pub(crate) fn new(folder: &Path, sources: &[Source]) -> Result<Self> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(dir)).context("making apt's folders")?;
        }
        let keyring = ["pgp", "gpg"]
            .map(|kind| format!("/usr/share/keyrings/debian-archive-keyring.{kind}"))
            .into_iter()
            .find(|path| Path::new(path).exists());
        let options = keyring.map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        let lines: String = sources
            .iter()
            .map(|source| format!("deb {options}{} {} main\n", source.archive, source.suite))
            .collect();
        fs::write(folder.join("sources.list"), lines).context("writing apt's source lines")?;
        let apt = Self { folder: folder.to_owned() };
        // Without this option, a source that cannot be reached is only a warning.
        process::output(apt.command("apt-get")?.args([
            "update",
            "-o",
            "APT::Update::Error-Mode=any",
        ]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut apt = repo::command(program)?;
        apt.current_dir(&self.folder).args(self.settings());
        apt.args(["-o", "Debug::NoLocking=true"]);
        Ok(apt)
    }

    fn settings(&self) -> Vec<String> {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let own = [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
        ];
        let all = own.into_iter().chain(SETTINGS.map(ToOwned::to_owned));
        all.flat_map(|setting| ["-o".to_owned(), setting]).collect()
    }

    /// The names of all packages with a prefix.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = process::output(self.command("apt-cache")?.args(["pkgnames", prefix]))?;
        Ok(names.lines().map(ToOwned::to_owned).collect())
    }

    /// Names and versions of packages, without those that no source has.
    pub(crate) fn versions(&self, packages: &[String]) -> Result<Vec<(String, String)>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let table = process::output(self.command("apt-cache")?.arg("madison").args(packages))?;
        // `rust-src | <version> | <source>`
        Ok(table
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('|').map(str::trim);
                Some((columns.next()?.to_owned(), columns.next()?.to_owned()))
            })
            .collect())
    }

    /// The names of the packages that a version of a package depends on.
    pub(crate) fn dependencies(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let about = format!("{package}={version}");
        let record = process::output(self.command("apt-cache")?.args(["show", &about]))?;
        let list = record.lines().find_map(|line| line.strip_prefix("Depends:"));
        let names = list.unwrap_or_default().split([',', '|']);
        Ok(names.filter_map(|name| Some(name.split_whitespace().next()?.to_owned())).collect())
    }

    /// Downloads a package without installing it.
    pub(crate) fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let mut apt = self.command("apt-get")?;
        process::output(apt.arg("download").arg(format!("{package}={version}")))?;
        // The version's colon is escaped in the file's name.
        let start = format!("{package}_");
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start) && name.ends_with(".deb")
        };
        fs::read_dir(&self.folder)
            .context("reading the download folder")?
            .flatten()
            .map(|entry| entry.path())
            .find(is_it)
            .with_context(|| format!("`apt-get download` did not leave a package {package}"))
    }

    /// The arguments of `apt-get` that install packages, preferably from this suite.
    pub(crate) fn install_arguments(&self, suite: &str, packages: &[&str]) -> Vec<String> {
        let mut arguments = self.settings();
        arguments.extend(["install", "--yes", "--no-install-recommends", "-t"].map(Into::into));
        arguments.push(suite.to_owned());
        arguments.extend(packages.iter().map(ToString::to_string));
        arguments
    }
}

/// Unpacks a package into a folder without installing it.
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    process::output(repo::command("dpkg")?.arg("-x").arg(package).arg(into)).map(drop)
}

/// The Debian archives that this machine installs from.
pub(crate) struct Machine {
    /// The machine's release, such as `bookworm`.
    pub(crate) codename: String,
    archive: String,
    security: Option<String>,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .context("/etc/os-release names no Debian release")?;
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(parts.flatten().map(|entry| entry.path()));
        }
        let texts: Vec<_> = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
        let of = |suite: &str| texts.iter().find_map(|text| archive_of(text, suite));
        let archive = of(&codename)
            .with_context(|| format!("no apt source of this machine has the suite {codename}"))?;
        Ok(Self { archive, security: of(&format!("{codename}-security")), codename })
    }

    /// A suite of the machine's archive. Security updates may have an archive of their own: the one in the
    /// machine's sources, or else the one beside the main archive, as at Debian.
    pub(crate) fn source(&self, suite: &str) -> Source {
        let archive = if suite.ends_with("-security") {
            self.security
                .clone()
                .unwrap_or_else(|| format!("{}-security", self.archive.trim_end_matches('/')))
        } else {
            self.archive.clone()
        };
        Source { archive, suite: suite.to_owned() }
    }
}

/// The archive of a suite's component `main`, from a source file in one of apt's two formats.
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

/// Whether a version is newer than another one, by Debian's rules.
pub(crate) fn is_newer(version: &str, than: &str) -> Result<bool> {
    let mut dpkg = repo::command("dpkg")?;
    let status = dpkg.args(["--compare-versions", version, "gt", than]).status();
    Ok(status.context("starting dpkg")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn security_updates_are_beside_the_archive_unless_the_machine_names_one() {
        let machine = |security: Option<&str>| Machine {
            codename: "bookworm".into(),
            archive: "http://mirror.example/debian/".into(),
            security: security.map(Into::into),
        };
        let of = |machine: Machine, suite: &str| machine.source(suite).archive;
        assert_eq!(of(machine(None), "trixie"), "http://mirror.example/debian/");
        assert_eq!(of(machine(None), "trixie-security"), "http://mirror.example/debian-security");
        assert_eq!(of(machine(Some("http://s.example")), "trixie-security"), "http://s.example");
    }
}
