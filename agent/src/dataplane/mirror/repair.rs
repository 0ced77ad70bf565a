//! Comparing the maps with what they should hold, and mending what differs.

use serde::{Deserialize, Serialize};
use sockline_ebpf::{
    address::Address,
    backend::{Backend, Slot},
};

use super::{Mirror, install::members};
use crate::dataplane::{alias, error::DataplaneError, frontends};

/// Entries that are not as they should be.
#[derive(Debug, Default)]
pub struct Differences {
    frontends: frontends::Differences,
    /// Id, and the entry as it should be.
    backends: Vec<(u32, Backend)>,
    slots: Vec<(u32, Slot)>,
}

/// How many entries differ, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub frontends_missing: usize,
    pub frontends_changed: usize,
    /// Frontends that nobody planned.
    pub frontends_foreign: usize,
    pub backends: usize,
    pub slots: usize,
    /// Words of the bitmap in front of the frontends.
    pub filter_words: usize,
    /// Cgroups that are left alone, and their levels.
    pub left_alone: usize,
    /// Service ports of the plan that are not in the maps as planned, or in the maps and not in the
    /// plan.
    pub services: usize,
}

impl Drift {
    /// All that differs in the maps.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.frontends_missing
            + self.frontends_changed
            + self.frontends_foreign
            + self.backends
            + self.slots
            + self.left_alone
            + self.filter_words
    }
}

impl Differences {
    pub const fn drift(&self) -> Drift {
        Drift {
            left_alone: 0,
            frontends_missing: self.frontends.missing.len(),
            frontends_changed: self.frontends.changed.len(),
            frontends_foreign: self.frontends.foreign.len(),
            backends: self.backends.len(),
            slots: self.slots.len(),
            filter_words: self.frontends.filter_words,
            services: 0,
        }
    }
}

impl Mirror {
    /// Compares the maps with this picture of them, entry by entry, and mends what differs.
    /// Returns how many entries had to be mended.
    pub fn repair(&mut self) -> Result<usize, DataplaneError> {
        let differences = self.compare()?;
        self.mend(&differences)?;
        Ok(differences.drift().entries())
    }

    /// Compares the maps with this picture of them, entry by entry, and changes nothing.
    pub fn compare(&self) -> Result<Differences, DataplaneError> {
        let frontends = self.frontends.compare()?;
        let mut differences = Differences { frontends, ..Differences::default() };
        for (key, installed) in &self.installed {
            for (&(address, port), known) in &installed.backends {
                let found = self.pool.backend(known.id);
                let sound = found.is_some_and(|backend| {
                    backend.address == Address::from(address)
                        && backend.port == port.to_be()
                        && backend.service == installed.id
                        && backend.sets == known.sets
                });
                if !sound {
                    tracing::debug!(service = %key, backend = known.id, "backend entry differs");
                    let wanted = Backend {
                        address: address.into(),
                        service: installed.id,
                        port: port.to_be(),
                        weight: known.weight,
                        sets: known.sets,
                        ..Backend::default()
                    };
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
        }
        Ok(differences)
    }

    fn mend(&mut self, differences: &Differences) -> Result<(), DataplaneError> {
        self.frontends.mend(&differences.frontends)?;
        for &(id, backend) in &differences.backends {
            self.pool.rewrite_backend(id, backend)?;
        }
        for &(index, slot) in &differences.slots {
            self.pool.rewrite_slot(index, slot)?;
        }
        Ok(())
    }
}
