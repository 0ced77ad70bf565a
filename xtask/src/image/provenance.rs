//! Commit and time of an image: the same sources give the same archive.

use std::{env, process::Command};

use anyhow::{Context, Result};

use crate::{process, repo};

pub(super) struct Provenance {
    /// Seconds since 1970: `SOURCE_DATE_EPOCH`, else the commit's time.
    pub(super) time: u64,
    /// The same in the format of RFC 3339.
    pub(super) created: String,
    /// The commit, with the suffix `-changed` if files differ from it. `None` outside of a repository.
    pub(super) revision: Option<String>,
}

impl Provenance {
    pub(super) fn of_the_repository() -> Result<Self> {
        let git = |args: &[&str]| process::output(repo::command("git")?.args(args));
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH={text:?}: no number of seconds"))?,
            Err(_) => git(&["log", "-1", "--format=%ct"])
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        };
        let mut date = Command::new("date");
        let created = process::output(
            date.args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]).arg(format!("--date=@{time}")),
        )?;
        let changed = git(&["status", "--porcelain"]).is_ok_and(|changes| !changes.is_empty());
        let revision = git(&["rev-parse", "HEAD"])
            .ok()
            .map(|commit| if changed { format!("{commit}-changed") } else { commit });
        Ok(Self { time, created, revision })
    }
}
