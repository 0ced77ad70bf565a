//! The RustSec database, and small invented ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{process, repo};

/// Where cargo-deny looks for it.
pub(super) const URL: &str = "https://github.com/RustSec/advisory-db";
/// The id of the invented advisory.
pub(super) const ADVISORY: &str = "RUSTSEC-0000-0001";

pub(super) struct Database {
    /// Where cargo-deny keeps its clone.
    pub(super) clones: PathBuf,
    /// What git fetches instead of [`URL`].
    pub(super) source: Option<String>,
}

impl Database {
    /// The real one, where cargo-deny keeps it, so that git fetches only what is new.
    pub(super) fn kept() -> Result<Self> {
        let cargo = repo::cargo_bin().context("cargo has no home folder")?;
        Ok(Self { clones: cargo.with_file_name("advisory-dbs"), source: None })
    }

    /// A copy of the real one.
    pub(super) fn named(source: &str, scratch: &Path) -> Self {
        let source = match fs::canonicalize(source) {
            Ok(folder) => format!("file://{}", folder.display()),
            Err(_) => source.to_owned(),
        };
        Self { clones: scratch.join("named"), source: Some(source) }
    }

    /// An invented one with a single advisory, against every version of a crate.
    pub(super) fn against(package: &str, place: &Path) -> Result<Self> {
        let repository = place.join("repository");
        let folder = repository.join("crates").join(package);
        let advisory = format!(
            "```toml\n[advisory]\nid = \"{ADVISORY}\"\npackage = \"{package}\"\ndate = \"2026-01-01\"\n\
             [versions]\npatched = []\n```\n\n# Invented\n\nTo see that it is refused.\n"
        );
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(format!("{ADVISORY}.md")), advisory))
            .context("making a database")?;
        let git = |args: &[&str]| {
            let mut git = repo::command("git")?;
            git.arg("-C").arg(&repository).args([
                "-c",
                "user.name=xtask",
                "-c",
                "user.email=xtask@localhost",
            ]);
            process::output(git.args(args)).map(drop)
        };
        git(&["init", "--quiet", "--initial-branch=main"])?;
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message=invented"])?;
        let source = Some(format!("file://{}", repository.display()));
        Ok(Self { clones: place.join("clones"), source })
    }
}

/// Fails if there is no repository. Never asks for a password.
pub(super) fn reach(source: &str) -> Result<()> {
    let mut git = repo::command("git")?;
    git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20"])
        .args(["ls-remote", "--exit-code", source, "main"])
        .env("GIT_TERMINAL_PROMPT", "0");
    process::output(&mut git).map(drop)
}
