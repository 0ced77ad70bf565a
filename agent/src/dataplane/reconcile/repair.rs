//! Compares the maps with what they should hold, and repairs drift.
//!
//! A full comparison runs in steps, so that no change has to wait for it.

use std::{collections::HashSet, ops::Bound};

use aya::maps::MapError;
use sockline_ebpf::{
    address::Address,
    backend::{Backend, Slot},
    id::{BackendId, ServiceId, SlotIndex},
};

use super::{Reconciler, ServicePortState, apply::members, drift::Drift, encode};
use crate::{
    bpf::kinds::array_of_maps::Repaired,
    dataplane::{
        error::DataplaneError,
        maps::{
            SERVICE_STATS,
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
    backends: Vec<(BackendId, Backend)>,
    /// Ids of backend entries that are in use and not allocated.
    stale: Vec<BackendId>,
    slots: Vec<(SlotIndex, Slot)>,
    names: Vec<(ServiceId, ServiceKey)>,
}

impl Differences {
    fn drift(&self) -> Drift {
        Drift {
            frontends_missing: self.frontends.missing.len(),
            frontends_changed: self.frontends.changed.len(),
            frontends_foreign: self.frontends.foreign.len(),
            backends: self.backends.len() + self.stale.len(),
            slots: self.slots.len(),
            filter_words: self.frontends.filter_words,
            names: self.names.len(),
            ..Drift::default()
        }
    }
}

/// The progress of a comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    stage: Stage,
}

impl Comparison {
    /// The comparison is complete; the next step starts a new one.
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
    /// The backends below this id were searched for stale entries.
    Stale(BackendId),
    Whole,
}

impl Reconciler {
    /// How many entries a full comparison has.
    pub fn entries_to_compare(&self) -> usize {
        let usage = self.allocator.usage();
        self.frontends.entries().len() + (usage.slots + 2 * usage.backends) as usize
    }

    /// Compares and repairs `entries` more entries, rounded up to a whole service. Returns what was
    /// repaired, also if the result is an error.
    pub fn reconcile_maps(
        &mut self,
        comparison: &mut Comparison,
        entries: usize,
    ) -> (Drift, Result<(), DataplaneError>) {
        let mut differences = Differences::default();
        let compared = self.compare_next_of(comparison, entries, &mut differences);
        let mut drift = Drift::default();
        let mut result = self.repair(&differences, &mut drift).and(compared);
        if comparison.is_at_its_end() {
            match self.repair_arrays() {
                Ok(repaired) => {
                    drift.maps += repaired.maps;
                    drift.pins += repaired.pins;
                }
                Err(error) => result = result.and(Err(error)),
            }
            result = result.and(self.remove_stats_of_removed_services());
        }
        (drift, result)
    }

    /// A connection may end after its service was removed, and its end makes the entry again.
    fn remove_stats_of_removed_services(&mut self) -> Result<(), DataplaneError> {
        let installed: HashSet<ServiceId> =
            self.service_ports.values().map(|known| known.id).collect();
        let mut removed = Vec::new();
        for id in self.stats.keys() {
            let id = id.map_err(|error| DataplaneError::map(SERVICE_STATS, "read", error))?;
            if !installed.contains(&id) {
                removed.push(id);
            }
        }
        for id in removed {
            match self.stats.remove(&id) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DataplaneError::map(SERVICE_STATS, "write", error)),
            }
        }
        Ok(())
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

    /// Compares all maps with what they should hold. Changes nothing.
    pub fn compare(&self) -> Result<Drift, DataplaneError> {
        let mut differences = Differences::default();
        let mut stage = Stage::Start;
        loop {
            stage = self.compare_some(&stage, usize::MAX, &mut differences)?.0;
            if matches!(stage, Stage::Start) {
                let maps = self.frontends.displaced()? + self.allocator.displaced()?;
                return Ok(Drift { maps, ..differences.drift() });
            }
        }
    }

    /// Compares one service, or about `entries` entries of what all services share. Returns the
    /// next stage (at the end the first one), and how many entries were compared.
    fn compare_some(
        &self,
        stage: &Stage,
        entries: usize,
        differences: &mut Differences,
    ) -> Result<(Stage, usize), DataplaneError> {
        match stage {
            Stage::Start => self.compare_next(Bound::Unbounded, differences),
            Stage::Services(last) => self.compare_next(Bound::Excluded(last), differences),
            Stage::Stale(from) => {
                let count = u32::try_from(entries).unwrap_or(u32::MAX);
                let (stale, next) = self.allocator.stale_backends(*from, count);
                differences.stale.extend(stale);
                let looked_at = if next.is_some() { entries } else { 1 };
                Ok((next.map_or(Stage::Whole, Stage::Stale), looked_at))
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
        let Some((key, installed)) = self.service_ports.range((after, Bound::Unbounded)).next()
        else {
            return Ok((Stage::Stale(BackendId::NONE), 1));
        };
        self.compare_service(key, installed, differences)?;
        let slots: usize =
            installed.slot_ranges.iter().map(|slot_range| slot_range.members.len()).sum();
        let entries = 1 + installed.keys.len() + installed.backends.len() + slots;
        Ok((Stage::Services(key.clone()), entries))
    }

    fn compare_service(
        &self,
        key: &ServiceKey,
        installed: &ServicePortState,
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
                scopes: known.scopes,
                class: encode::traffic_class(known.traffic_class).byte(),
                generation: known.generation,
                ..Backend::default()
            };
            let found = self.allocator.backend(known.id);
            let sound = found.is_some_and(|backend| {
                backend.address == Address::from(address)
                    && backend.port == wanted.port
                    && backend.service == wanted.service
                    && backend.scopes == wanted.scopes
                    && backend.weight == wanted.weight
                    && backend.class == wanted.class
                    && backend.generation == wanted.generation
            });
            if !sound {
                tracing::debug!(service = %key, backend = %known.id, "backend entry differs");
                differences.backends.push((known.id, wanted));
            }
        }
        for slot_range in &installed.slot_ranges {
            let table = alias::table(&members(installed, slot_range));
            for (number, slot) in (0..).zip(table) {
                let index = slot_range.start.offset(number);
                if self.allocator.slot(index) != Some(slot) {
                    tracing::debug!(service = %key, slot = %index, "slot differs");
                    differences.slots.push((index, slot));
                }
            }
        }
        Ok(())
    }

    /// Repairs what it can, and counts it. Returns the first error.
    fn repair(
        &mut self,
        differences: &Differences,
        repaired: &mut Drift,
    ) -> Result<(), DataplaneError> {
        let all = differences.drift();
        // An entry is written before what refers to it.
        let backends = self.allocator.repair_backends(&differences.backends);
        let slots = (differences.slots.iter())
            .try_for_each(|&(index, slot)| self.allocator.rewrite_slot(index, slot))
            .map(|()| repaired.slots = all.slots);
        let frontends = self.frontends.repair(&differences.frontends).map(|()| {
            repaired.frontends_missing = all.frontends_missing;
            repaired.frontends_changed = all.frontends_changed;
            repaired.frontends_foreign = all.frontends_foreign;
            repaired.filter_words = all.filter_words;
        });
        let stale = self.allocator.free_stale(&differences.stale);
        let backends = backends.and(stale).map(|()| repaired.backends = all.backends);
        let names = (differences.names.iter())
            .try_for_each(|(id, key)| service_names::write(&mut self.names, *id, key))
            .map(|()| repaired.names = all.names);
        backends.and(slots).and(frontends).and(names)
    }

    fn repair_arrays(&self) -> Result<Repaired, DataplaneError> {
        Ok(self.frontends.repair_arrays()? + self.allocator.repair_arrays()?)
    }
}
