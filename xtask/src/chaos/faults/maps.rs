//! Corrupt map entries.
//!
//! With a corrupt entry, wrong answers are expected: failures until the repair are counted separately. After it,
//! everything must be correct.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use sockline_testbed::bpf::RawMap;

use crate::chaos::harness::{Harness, REPAIR_INTERVAL};

/// How an entry is changed.
#[derive(Clone, Copy, Debug)]
enum Corruption {
    Removed,
    Zeroed,
    /// A random byte.
    Flipped,
    /// The value of another entry.
    Copied,
}

/// Where a map has its entries.
#[derive(Clone, Copy)]
enum Layout {
    Flat,
    /// In the maps that it holds.
    ArrayOfMaps,
    /// As that, and only the first bytes of an entry say what it is. Behind them the programs count, and what is
    /// written over there is lost: nobody else has it.
    Backends,
}

/// What says which endpoint a backend is: of an entry of 128 bytes, a cache line has counts behind it.
const IDENTITY: usize = 32;

const OF_HASHES: &[Corruption] = &[Corruption::Removed, Corruption::Flipped, Corruption::Copied];
const OF_ARRAYS: &[Corruption] = &[Corruption::Zeroed, Corruption::Flipped, Corruption::Copied];

pub(super) fn frontends(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "FRONTENDS", Layout::ArrayOfMaps, OF_HASHES)
}

pub(super) fn slots(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "SLOTS", Layout::ArrayOfMaps, OF_ARRAYS)
}

pub(super) fn backends(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "BACKENDS", Layout::Backends, OF_ARRAYS)?;
    // The counts of an entry that is about to be removed go to the service that the entry names.
    harness.counts_were_overwritten()
}

pub(super) fn filter(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "FILTER", Layout::Flat, OF_ARRAYS)
}

/// No program reads the names, so no call may fail. The next agent must cope with the corrupt ones.
pub(super) fn names(harness: &mut Harness) -> Result<()> {
    corrupt(harness, "SERVICE_NAMES", Layout::Flat, OF_HASHES)?;
    harness.kill()?;
    harness.start(harness.build())
}

/// Number of entries to corrupt.
const ENTRIES: usize = 5;

fn corrupt(
    harness: &mut Harness,
    name: &'static str,
    layout: Layout,
    kinds: &[Corruption],
) -> Result<()> {
    let pin = harness.pins()?.join("maps").join(name);
    let map = RawMap::pinned(&pin).with_context(|| format!("opening {}", pin.display()))?;
    let map = match layout {
        Layout::Flat => map,
        Layout::ArrayOfMaps | Layout::Backends => {
            let inner = harness.random.choice(map.inner_ids()?);
            RawMap::with_id(inner.with_context(|| format!("{name} holds no maps"))?)?
        }
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
        let part = if matches!(layout, Layout::Backends) { IDENTITY } else { value.len() };
        let value = value[..part].to_vec();
        let mut changed = value.clone();
        match how {
            Corruption::Removed => {}
            Corruption::Zeroed => changed.fill(0),
            Corruption::Flipped => {
                let place = harness.random.usize(..changed.len());
                changed[place] ^= harness.random.u8(1..);
            }
            Corruption::Copied => {
                changed = used[harness.random.usize(..used.len())].1[..part].to_vec();
            }
        }
        harness
            .results
            .event(format!("{name}[{key:02x?}] is {how:?}: {value:02x?} to {changed:02x?}"));
        let written = if matches!(how, Corruption::Removed) {
            map.remove(&key)
        } else if let (Layout::Backends, Ok(index)) = (layout, key.as_slice().try_into()) {
            map.overwrite(u32::from_ne_bytes(index), 0, &changed)
                .context("writing into the array")?;
            Ok(())
        } else {
            map.set(&key, &changed)
        };
        if written.is_err() {
            // The agent has removed the entry meanwhile.
            harness.results.count("corruptions of entries that were gone");
        }
        harness.results.count("map entries corrupted");
    }
    // The agent compares every entry once per interval.
    thread::sleep(REPAIR_INTERVAL * 2 + Duration::from_millis(200));
    let synced = harness.confirm();
    let checked = harness.check();
    harness.oracle.damage_ends();
    harness.results.event(format!("{name} must be correct again"));
    synced?;
    if let Err(error) = checked {
        harness.results.violation("nodes that were not repaired", &format!("{name}: {error:#}"));
    }
    Ok(())
}
