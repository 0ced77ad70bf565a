//! Comparing the maps with what they should hold, and mending what differs.

use sockline_ebpf::{address::Address, backend::Backend};

use super::{Mirror, install::members};
use crate::dataplane::{alias, error::DataplaneError};

impl Mirror {
    /// Compares the maps with this picture of them, entry by entry, and mends what differs.
    /// Returns how many entries had to be mended.
    pub fn repair(&mut self) -> Result<usize, DataplaneError> {
        let mut repaired = self.frontends.repair()?;
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
                    tracing::debug!(service = %key, backend = known.id, "backend entry repaired");
                    self.pool.rewrite_backend(
                        known.id,
                        Backend {
                            address: address.into(),
                            service: installed.id,
                            port: port.to_be(),
                            weight: known.weight,
                            sets: known.sets,
                            ..Backend::default()
                        },
                    )?;
                    repaired += 1;
                }
            }
            for extent in &installed.extents {
                let table = alias::table(&members(installed, extent));
                for (slot, index) in table.iter().zip(extent.start..) {
                    if self.pool.slot(index) != Some(*slot) {
                        tracing::debug!(service = %key, slot = index, "slot repaired");
                        self.pool.rewrite_slot(index, *slot)?;
                        repaired += 1;
                    }
                }
            }
        }
        Ok(repaired)
    }
}
