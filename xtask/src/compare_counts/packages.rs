//! The servers and clients: Debian packages, unpacked without installation into `target/tools/servers`, since
//! installed ones would start servers. Only this task fetches them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{apt, process, repo, setup, term};

const PACKAGES: [&str; 7] =
    ["nginx", "wrk", "redis-server", "redis-tools", "postgresql", "dnsmasq-base", "bind9-dnsutils"];

/// The programs that are run, and the folders that packages have them in; `*` is one folder of any name.
const PROGRAMS: [(&str, &str); 10] = [
    ("nginx", "usr/sbin"),
    ("wrk", "usr/bin"),
    ("redis-server", "usr/bin"),
    ("redis-benchmark", "usr/bin"),
    ("initdb", "usr/lib/postgresql/*/bin"),
    ("postgres", "usr/lib/postgresql/*/bin"),
    ("psql", "usr/lib/postgresql/*/bin"),
    ("pgbench", "usr/lib/postgresql/*/bin"),
    ("dnsmasq", "usr/sbin"),
    ("dig", "usr/bin"),
];

/// The programs, all of which are there.
pub(super) struct Programs {
    folder: PathBuf,
    /// Of the unpacked packages' libraries.
    libraries: String,
}

impl Programs {
    fn find() -> Self {
        let folder = repo::target_dir().join("tools/servers");
        let libraries = matches(&folder, "usr/lib/*");
        let libraries = libraries.iter().filter(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-"))
        });
        let libraries: Vec<_> = libraries.map(|folder| folder.display().to_string()).collect();
        Self { folder, libraries: libraries.join(":") }
    }

    /// Where a program is: unpacked, or installed on this machine.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let (_, place) = PROGRAMS.iter().find(|(known, _)| *known == name)?;
        let roots = [self.folder.as_path(), Path::new("/")];
        let folders = roots.into_iter().flat_map(|root| matches(root, place));
        folders.map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    fn missing(&self) -> Vec<&'static str> {
        let names = PROGRAMS.iter().map(|(name, _)| *name);
        names.filter(|name| self.path(name).is_none()).collect()
    }

    /// A command that runs one of the programs.
    pub(super) fn command(&self, name: &str) -> Result<Command> {
        let path = self.path(name).with_context(|| format!("there is no program `{name}`"))?;
        let mut command = Command::new(path);
        command.env("LD_LIBRARY_PATH", &self.libraries).env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// A command that runs one of the programs as another user than root in a user namespace, since PostgreSQL refuses
    /// to run as root. To the file system it still is root, so that it needs no folder that others can enter.
    pub(super) fn command_of_user(&self, name: &str) -> Result<Command> {
        let program = self.command(name)?;
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000"]);
        command.arg(program.get_program());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(command)
    }
}

/// The folders below a root at a path with at most one `*`.
fn matches(root: &Path, place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else { return vec![root.join(place)] };
    let entries = fs::read_dir(root.join(before)).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|entry| entry.path().join(after.trim_start_matches('/'))).collect();
    found.sort();
    found
}

/// Finds the programs, or fetches and unpacks their packages.
pub(super) fn ensure() -> Result<Programs> {
    let programs = Programs::find();
    let missing = programs.missing();
    if !missing.is_empty() {
        term::doing("packages", &format!("there is no {}: fetching", missing.join(", ")));
        let unpacked = unpack(&programs.folder)?;
        let programs = Programs::find();
        let missing = programs.missing();
        if !missing.is_empty() {
            bail!("still without {} after unpacking {unpacked} packages", missing.join(", "));
        }
        term::ok("packages", &format!("{unpacked} unpacked to {}", programs.folder.display()));
        return Ok(programs);
    }
    Ok(programs)
}

/// Unpacks the packages with all that they depend on and this machine has not installed.
fn unpack(folder: &Path) -> Result<usize> {
    let needed = || {
        let mut apt = repo::command("apt-get")?;
        apt.args(["install", "--simulate", "--no-install-recommends"]).args(PACKAGES);
        process::output(&mut apt)
    };
    // A new container image has no package lists yet.
    let needed = needed().or_else(|_| setup::update_package_lists().and_then(|()| needed()))?;
    let names = to_install(&needed);
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let mut apt = repo::command("apt-get")?;
    apt.args(["-o", "APT::Sandbox::User=root", "download"]).args(&names);
    process::output(apt.current_dir(scratch.path()))?;
    let files = fs::read_dir(scratch.path()).context("reading the download folder")?;
    let files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    for file in &files {
        apt::unpack(file, folder)?;
    }
    Ok(files.len())
}

/// The packages in what `apt-get install --simulate` prints. `Inst wrk (4.1.0-3+b2 Debian:12.1/oldstable [amd64])`.
fn to_install(printed: &str) -> Vec<&str> {
    let lines = printed.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_to_install_are_those_that_apt_names() {
        let printed = "NOTE: …\nInst liblzf1 (3.6-3 Debian:12.1 [amd64])\n\
                       Inst wrk [4.0] (4.1.0-3+b2 Debian:12.1 [amd64])\nConf wrk (4.1.0-3+b2)";
        assert_eq!(to_install(printed), ["liblzf1", "wrk"]);
    }

    #[test]
    fn a_star_stands_for_any_one_folder() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["usr/lib/postgresql/15/bin", "usr/lib/postgresql/17/bin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let found = matches(root.path(), "usr/lib/postgresql/*/bin");
        let expected =
            ["15", "17"].map(|version| root.path().join("usr/lib/postgresql").join(version));
        assert_eq!(found, expected.map(|folder| folder.join("bin")));
        assert_eq!(matches(root.path(), "usr/sbin"), [root.path().join("usr/sbin")]);
    }
}
