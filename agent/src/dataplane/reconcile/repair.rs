//! Comparing the maps with what they should hold, and mending what differs.
//!
//! A comparison of everything can go on bit by bit, so that no change has to wait for it.

use std::ops::Bound;

use sockline_ebpf::{
    address::Address,
    backend::{Backend, Slot},
};

use super::{Installed, Mirror, apply::members, drift::Drift};
use crate::{
    bpf::kinds::array_of_maps::Mended,
    dataplane::{
        error::DataplaneError,
        maps::{
            allocator::alias,
            frontends,
            service_names::{self, ServiceKey},
        },
    },
};

/// Entries that are not as they should be.
#[derive(Debug, Default)]
pub struct Differences {
    frontends: frontends::Differences,
    /// Id, and the entry as it should be.
    backends: Vec<(u32, Backend)>,
    /// Ids of backends that nobody added.
    strays: Vec<u32>,
    slots: Vec<(u32, Slot)>,
    names: Vec<(u32, ServiceKey)>,
}

impl Differences {
    fn drift(&self) -> Drift {
        Drift {
            frontends_missing: self.frontends.missing.len(),
            frontends_changed: self.frontends.changed.len(),
            frontends_foreign: self.frontends.foreign.len(),
            backends: self.backends.len() + self.strays.len(),
            slots: self.slots.len(),
            filter_words: self.frontends.filter_words,
            names: self.names.len(),
            ..Drift::default()
        }
    }
}

/// How far a comparison has come.
#[derive(Debug, Default)]
pub struct Comparison {
    stage: Stage,
}

impl Comparison {
    /// All is compared; the next one begins anew.
    pub const fn is_at_its_end(&self) -> bool {
        matches!(self.stage, Stage::Start)
    }
}

#[derive(Debug, Default, Clone)]
enum Stage {
    #[default]
    Start,
    /// The services up to this one are compared.
    Services(ServiceKey),
    /// The backends below this id were looked through for strays.
    Strays(u32),
    Whole,
}

impl Mirror {
    /// How many entries there are to compare.
    pub fn entries_to_compare(&self) -> usize {
        let usage = self.pool.usage();
        self.frontends.entries().len() + (usage.slots + 2 * usage.backends) as usize
    }

    /// Compares and mends some more entries: as many as this, or a whole service more. Returns what was
    /// mended, also where the result says that not everything could be.
    pub fn repair_some(
        &mut self,
        comparison: &mut Comparison,
        entries: usize,
    ) -> (Drift, Result<(), DataplaneError>) {
        let mut differences = Differences::default();
        let compared = self.compare_next_of(comparison, entries, &mut differences);
        let mut drift = Drift::default();
        let mut result = self.mend(&differences, &mut drift).and(compared);
        if comparison.is_at_its_end() {
            match self.repair_outer() {
                Ok(mended) => {
                    drift.maps += mended.maps;
                    drift.pins += mended.pins;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        (drift, result)
    }

    fn compare_next_of(
        &self,
        comparison: &mut Comparison,
        entries: usize,
        differences: &mut Differences,
    ) -> Result<(), DataplaneError> {
        let mut left = entries;
        while left > 0 {
            let (next, compared) = self.compare_some(&comparison.stage, left, differences)?;
            comparison.stage = next;
            left = left.saturating_sub(compared);
            if comparison.is_at_its_end() {
                break;
            }
        }
        Ok(())
    }

    /// Compares all of the maps with this picture of them, and changes nothing.
    pub fn compare(&self) -> Result<Drift, DataplaneError> {
        let mut differences = Differences::default();
        let mut stage = Stage::Start;
        loop {
            stage = self.compare_some(&stage, usize::MAX, &mut differences)?.0;
            if matches!(stage, Stage::Start) {
                let maps = self.frontends.displaced()? + self.pool.displaced()?;
                return Ok(Drift { maps, ..differences.drift() });
            }
        }
    }

    /// Compares one service, or about so many entries of what is common to all. Returns where to go
    /// on, and how many entries that was; at the end, where to start again.
    fn compare_some(
        &self,
        stage: &Stage,
        entries: usize,
        differences: &mut Differences,
    ) -> Result<(Stage, usize), DataplaneError> {
        match stage {
            Stage::Start => self.compare_next(Bound::Unbounded, differences),
            Stage::Services(last) => self.compare_next(Bound::Excluded(last), differences),
            Stage::Strays(from) => {
                let count = u32::try_from(entries).unwrap_or(u32::MAX);
                let (strays, next) = self.pool.stray_backends(*from, count);
                differences.strays.extend(strays);
                let looked_at = if next.is_some() { entries } else { 1 };
                Ok((next.map_or(Stage::Whole, Stage::Strays), looked_at))
            }
            Stage::Whole => {
                self.frontends.compare(&self.at_node.marks, &mut differences.frontends)?;
                self.frontends.find_foreign(&mut differences.frontends)?;
                self.frontends.compare_filter(&mut differences.frontends);
                Ok((Stage::Start, self.frontends.entries().len()))
            }
        }
    }

    fn compare_next(
        &self,
        after: Bound<&ServiceKey>,
        differences: &mut Differences,
    ) -> Result<(Stage, usize), DataplaneError> {
        let Some((key, installed)) = self.installed.range((after, Bound::Unbounded)).next() else {
            return Ok((Stage::Strays(0), 1));
        };
        self.compare_service(key, installed, differences)?;
        let slots: usize = installed.extents.iter().map(|extent| extent.members.len()).sum();
        let entries = 1 + installed.keys.len() + installed.backends.len() + slots;
        Ok((Stage::Services(key.clone()), entries))
    }

    fn compare_service(
        &self,
        key: &ServiceKey,
        installed: &Installed,
        differences: &mut Differences,
    ) -> Result<(), DataplaneError> {
        if !service_names::is_written(&self.names, installed.id, key)? {
            differences.names.push((installed.id, key.clone()));
        }
        self.frontends.compare(&installed.keys, &mut differences.frontends)?;
        for (&(address, port), known) in &installed.backends {
            let wanted = Backend {
                address: address.into(),
                service: installed.id,
                port: port.to_be(),
                weight: known.weight,
                sets: known.sets,
                ..Backend::default()
            };
            let found = self.pool.backend(known.id);
            let sound = found.is_some_and(|backend| {
                backend.address == Address::from(address)
                    && backend.port == wanted.port
                    && backend.service == wanted.service
                    && backend.sets == wanted.sets
                    && backend.weight == wanted.weight
            });
            if !sound {
                tracing::debug!(service = %key, backend = known.id, "backend entry differs");
                differences.backends.push((known.id, wanted));
            }
        }
        for extent in &installed.extents {
            let table = alias::table(&members(installed, extent));
            for (slot, index) in table.into_iter().zip(extent.start..) {
                if self.pool.slot(index) != Some(slot) {
                    tracing::debug!(service = %key, slot = index, "slot differs");
                    differences.slots.push((index, slot));
                }
            }
        }
        Ok(())
    }

    /// Mends all that can be mended, and counts it. Returns the first error.
    fn mend(
        &mut self,
        differences: &Differences,
        mended: &mut Drift,
    ) -> Result<(), DataplaneError> {
        let all = differences.drift();
        // What leads to an entry comes after the entry.
        let backends = self.pool.mend_backends(&differences.backends);
        let slots = (differences.slots.iter())
            .try_for_each(|&(index, slot)| self.pool.rewrite_slot(index, slot))
            .map(|()| mended.slots = all.slots);
        let frontends = self.frontends.mend(&differences.frontends).map(|()| {
            mended.frontends_missing = all.frontends_missing;
            mended.frontends_changed = all.frontends_changed;
            mended.frontends_foreign = all.frontends_foreign;
            mended.filter_words = all.filter_words;
        });
        let strays = differences.strays.iter().try_for_each(|&id| self.pool.clear_backend(id));
        let backends = backends.and(strays).map(|()| mended.backends = all.backends);
        let names = (differences.names.iter())
            .try_for_each(|(id, key)| service_names::write(&mut self.names, *id, key))
            .map(|()| mended.names = all.names);
        backends.and(slots).and(frontends).and(names)
    }

    fn repair_outer(&self) -> Result<Mended, DataplaneError> {
        Ok(self.frontends.repair_outer()? + self.pool.repair_outer()?)
    }
}
