//! The pins' folder: complete, writable only by root, and without leftovers.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::CheckResult;
use crate::dataplane::{self, Pins};

/// Another user with write permission could replace maps and links.
const WRITABLE_BY_OTHERS: u32 = 0o022;

pub fn check(pins: &Pins) -> Vec<CheckResult> {
    vec![complete(pins), permissions(pins), leftovers(pins)]
}

fn complete(pins: &Pins) -> CheckResult {
    let check = "pins.maps";
    let all = dataplane::map_names();
    let missing: Vec<&str> = all.iter().copied().filter(|name| !pins.map(name).exists()).collect();
    if missing.is_empty() {
        CheckResult::ok(check, format!("all {} maps, in {}", all.len(), pins.maps().display()))
    } else {
        CheckResult::failed(
            check,
            format!("missing in {}: {}", pins.maps().display(), missing.join(", ")),
            "restart the agent, which creates them again",
        )
    }
}

fn permissions(pins: &Pins) -> CheckResult {
    let check = "pins.permissions";
    let folders = [pins.root().to_owned(), pins.directory(), pins.maps(), pins.links()];
    let wrong: Result<Vec<Option<PathBuf>>, io::Error> =
        folders.iter().map(|folder| not_only_roots(folder)).collect();
    match wrong {
        Err(error) => CheckResult::failed(
            check,
            format!("cannot read {}: {error}", pins.directory().display()),
            "restart the agent, which creates what is missing",
        ),
        Ok(wrong) => {
            let wrong: Vec<String> =
                wrong.into_iter().flatten().map(|path| path.display().to_string()).collect();
            if wrong.is_empty() {
                CheckResult::ok(check, "only root can write")
            } else {
                CheckResult::failed(
                    check,
                    format!("not only root can write: {}", wrong.join(", ")),
                    "chown root and chmod go-w them, and find out who changed them",
                )
            }
        }
    }
}

/// The folder, or the first pin in it, that another user owns or can write.
fn not_only_roots(folder: &Path) -> io::Result<Option<PathBuf>> {
    let wrong = |path: &Path| -> io::Result<bool> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(metadata.uid() != 0 || metadata.mode() & WRITABLE_BY_OTHERS != 0)
    };
    if wrong(folder)? {
        return Ok(Some(folder.to_owned()));
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && wrong(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn leftovers(pins: &Pins) -> CheckResult {
    let check = "pins.leftovers";
    let half_made = fs::read_dir(pins.links())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with("_new"));
    let left: Vec<String> =
        pins.others().into_iter().chain(half_made).map(|path| path.display().to_string()).collect();
    if left.is_empty() {
        CheckResult::ok(check, "nothing of other versions")
    } else {
        CheckResult::warning(
            check,
            format!(
                "left by an agent of another version, or one that was killed: {}",
                left.join(", ")
            ),
            "restart the agent, which takes over what it can use and removes the rest",
        )
    }
}
