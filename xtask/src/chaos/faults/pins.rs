//! Removed pins, and stale pins. No connect may fail because of them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use sockline_testbed::bpf::{self, RawMap};

use super::{shown, wait_for};
use crate::chaos::harness::{Harness, REPAIR_INTERVAL};

/// Arrays of maps.
const ARRAYS_OF_MAPS: [&str; 3] = ["FRONTENDS", "SLOTS", "BACKENDS"];

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| !path.is_dir()).collect();
    files.sort();
    Ok(files)
}

fn any_of(harness: &mut Harness, folder: &str) -> Result<PathBuf> {
    let folder = harness.pins()?.join(folder);
    let chosen = harness.random.choice(files(&folder)?);
    chosen.with_context(|| format!("nothing is pinned in {}", folder.display()))
}

fn unpin(harness: &Harness, path: &Path) -> Result<()> {
    harness.results.event(format!("{} is removed", shown(path)));
    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}

pub(super) fn unpin_link(harness: &mut Harness) -> Result<()> {
    let path = any_of(harness, "links")?;
    unpin(harness, &path)?;
    wait_for(&format!("{} to be pinned again", shown(&path)), || path.exists())?;
    harness.confirm()
}

pub(super) fn unpin_map(harness: &mut Harness) -> Result<()> {
    let path = any_of(harness, "maps")?;
    unpin(harness, &path)?;
    wait_for(&format!("{} to be pinned again", shown(&path)), || path.exists())?;
    harness.confirm()
}

pub(super) fn unpin_inner_map(harness: &mut Harness) -> Result<()> {
    let path = any_of(harness, "maps/inner")?;
    unpin(harness, &path)?;
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|id| id.parse().ok());
    let maps = harness.pins()?.join("maps");
    wait_for(&format!("{} to be pinned again", shown(&path)), || {
        // The agent may have replaced the map meanwhile.
        path.exists() || name.is_none_or(|id: u32| !inner_ids(&maps).contains(&id))
    })?;
    harness.confirm()
}

fn inner_ids(maps: &Path) -> Vec<u32> {
    let ids = ARRAYS_OF_MAPS
        .iter()
        .filter_map(|name| RawMap::pinned(&maps.join(name)).ok()?.inner_ids().ok());
    ids.flatten().collect()
}

/// A stale map, a stale link and the folder of another layout. The next agent removes them.
pub(super) fn stale(harness: &mut Harness) -> Result<()> {
    let pins = harness.pins()?;
    let stale = pins.join("maps/inner/4000000000");
    bpf::pin_again(&pins.join("maps/AGENT_RECORD"), &stale).context("pinning a stale map")?;
    let link = any_of(harness, "links")?;
    let mut beside = link.clone().into_os_string();
    beside.push("_new");
    bpf::pin_again(&link, Path::new(&beside)).context("pinning a stale link")?;
    let half = pins.with_file_name("v999");
    fs::create_dir_all(half.join("maps/inner")).context("making a folder of another layout")?;
    harness.results.event("stale pins are created");
    harness.kill()?;
    harness.start(harness.build())?;
    for path in [&stale, Path::new(&beside), &half] {
        if path.exists() {
            harness
                .results
                .violation("stale pins that the next agent left", &path.display().to_string());
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir_all(path);
        }
    }
    Ok(())
}

/// All pins at once.
pub(super) fn remove_all(harness: &mut Harness) -> Result<()> {
    let pins = harness.pins()?;
    let (links, maps) = (files(&pins.join("links"))?, files(&pins.join("maps"))?);
    let root = harness.node.bpffs().join("sockline");
    harness.results.event("all pins are removed");
    fs::remove_dir_all(&root).context("removing all pins")?;
    let inner = pins.join("maps/inner");
    wait_for("all pins to be there again", || {
        links.iter().chain(&maps).all(|path| path.exists())
            && inner_ids(&pins.join("maps")).iter().all(|id| inner.join(id.to_string()).exists())
    })?;
    harness.confirm()
}

/// Failures while a program is detached are expected, so this counts as damage.
pub(super) fn detach_link(harness: &mut Harness) -> Result<()> {
    let path = any_of(harness, "links")?;
    let before = harness.metric("sockline_drift_repairs_total", &[("object", "link")])?;
    harness.oracle.damage_begins();
    if path.ends_with("sock_release") {
        harness.counts.miss_ends();
    }
    harness.results.event(format!("{} is detached", shown(&path)));
    bpf::detach_link(&path).with_context(|| format!("detaching {}", path.display()))?;
    let mut now = before;
    let repaired = wait_for("a detached link to be made again", || {
        now = harness.metric("sockline_drift_repairs_total", &[("object", "link")]).unwrap_or(now);
        now > before
    });
    harness.confirm()?;
    // Sockets that closed while no program was attached stay in the table until the next comparison.
    thread::sleep(REPAIR_INTERVAL);
    harness.oracle.damage_ends();
    harness.results.event("the link is made again");
    repaired
}
