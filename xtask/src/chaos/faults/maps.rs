//! Entries of the maps that somebody changes behind the agent's back.
//!
//! What the kernel does with a wrong entry is wrong by definition, so what fails until the repair is
//! counted by itself. Then everything must be right again.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use sockline_testbed::bpf::RawMap;

use crate::chaos::harness::{Harness, REPAIR_INTERVAL};

/// How an entry is changed.
#[derive(Clone, Copy, Debug)]
enum Corruption {
    Removed,
    Zeroed,
    /// One byte of it, at random.
    Flipped,
    /// In place of another's.
    Copied,
}

const OF_HASHES: &[Corruption] = &[Corruption::Removed, Corruption::Flipped, Corruption::Copied];
const OF_ARRAYS: &[Corruption] = &[Corruption::Zeroed, Corruption::Flipped, Corruption::Copied];

pub(super) fn frontends(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "FRONTENDS", true, OF_HASHES)
}

pub(super) fn slots(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "SLOTS", true, OF_ARRAYS)
}

pub(super) fn backends(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "BACKENDS", true, OF_ARRAYS)
}

pub(super) fn filter(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "FILTER", false, OF_ARRAYS)
}

/// No program reads them, so nothing may fail for it; the next agent must do without some.
pub(super) fn names(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "NAMES", false, OF_HASHES)?;
    harness.kill()?;
    harness.start(harness.build())
}

/// Entries that are changed at a time.
const ENTRIES: usize = 5;

fn corrupt(
    harness: &mut Harness,
    name: &'static str,
    is_outer: bool,
    kinds: &[Corruption],
) -> Result<()> {
    let pin = harness.pins()?.join("maps").join(name);
    let map = RawMap::pinned(&pin).with_context(|| format!("opening {}", pin.display()))?;
    let map = if is_outer {
        let inner = harness.random.choice(map.inner_ids()?);
        RawMap::with_id(inner.with_context(|| format!("{name} holds no maps"))?)?
    } else {
        map
    };
    let mut used = Vec::new();
    for key in map.keys()? {
        if let Some(value) = map.get(&key)?
            && value.iter().any(|&byte| byte != 0)
        {
            used.push((key, value));
        }
    }
    let chosen = harness.random.choose_multiple(used.clone(), ENTRIES);
    harness.oracle.damage_begins();
    for (key, value) in chosen {
        let how = kinds[harness.random.usize(..kinds.len())];
        let mut changed = value.clone();
        match how {
            Corruption::Removed => {}
            Corruption::Zeroed => changed.fill(0),
            Corruption::Flipped => {
                let place = harness.random.usize(..changed.len());
                changed[place] ^= harness.random.u8(1..);
            }
            Corruption::Copied => changed = used[harness.random.usize(..used.len())].1.clone(),
        }
        harness
            .results
            .event(format!("{name}[{key:02x?}] is {how:?}: {value:02x?} to {changed:02x?}"));
        let done = if matches!(how, Corruption::Removed) {
            map.remove(&key)
        } else {
            map.set(&key, &changed)
        };
        if done.is_err() {
            // The agent took the entry away meanwhile.
            harness.results.count("corruptions of entries that were gone");
        }
        harness.results.count("map entries corrupted");
    }
    // Every entry is compared once in an interval.
    thread::sleep(REPAIR_INTERVAL * 2 + Duration::from_millis(200));
    let settled = harness.confirm();
    let checked = harness.check();
    harness.oracle.damage_ends();
    harness.results.event(format!("{name} is to be right again"));
    settled?;
    if let Err(error) = checked {
        harness.results.mistake("nodes that were not repaired", &format!("{name}: {error:#}"));
    }
    Ok(())
}
