//! Finds and repairs what another process changed: pins, links, the folder of the pins, and entries of the maps.

use super::{
    Dataplane,
    error::DataplaneError,
    open::in_use,
    pinning::lock::READERS_TIMEOUT,
    programs::links::Attached,
    reconcile::{drift::Drift, repair::Comparison},
};
use crate::{model::plan::Plan, mounts::remount_bpffs};

impl Dataplane {
    /// Compares pins and links with what they should be, and repairs drift: a few dozen system
    /// calls. Maps and links without a pin are held open here, so they serve all the time. Returns
    /// what was repaired, also if the result is an error.
    pub fn reconcile_links(&mut self) -> (Drift, Result<(), DataplaneError>) {
        let mut drift = Drift::default();
        let pinned = self.repair_directory().and_then(|()| self.repair_pins(&mut drift.pins));
        // Links are repaired even if nothing can be pinned.
        let mut attached = Attached::default();
        let linked = if self.attached { self.attach_links(&mut attached) } else { Ok(()) };
        drift.links = attached.made.len() + attached.replaced.len();
        // A new link was never pinned.
        drift.pins += attached.pinned.len().saturating_sub(attached.made.len());
        (drift, pinned.and(linked))
    }

    fn repair_pins(&self, repaired: &mut usize) -> Result<(), DataplaneError> {
        let kept = self.kept.repair(&self.pins, repaired);
        *repaired += self.reconciler.repair_pins()?;
        kept
    }

    /// Creates the directory of the pins again if it was removed or its file system unmounted, and
    /// takes the lock on the new one.
    fn repair_directory(&mut self) -> Result<(), DataplaneError> {
        if !self.pins.are_locked_by(&self.lock) {
            self.mount_again()?;
            let Some(lock) = self.pins.lock_within(READERS_TIMEOUT)? else {
                return Err(in_use(&self.pins));
            };
            self.lock = lock;
        }
        self.pins.create()?;
        // The owner may change the mode. Taking back what belongs to another user is left to the
        // next agent, which starts with more capabilities. The other repairs continue.
        if let Err(error) = self.pins.close_to_others() {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        Ok(())
    }

    /// The agent has no right to mount any more; its helper has.
    fn mount_again(&self) -> Result<(), DataplaneError> {
        let Err(error) = remount_bpffs(&self.mount_point) else { return Ok(()) };
        match &self.mount_bpffs {
            Some(mount_bpffs) if mount_bpffs() => Ok(()),
            _ => Err(error.into()),
        }
    }

    /// Sets what mounts the BPF file system again when the agent itself must not. It logs its errors and
    /// returns whether it succeeded.
    pub fn set_mount_bpffs(&mut self, mount_bpffs: impl Fn() -> bool + Send + 'static) {
        self.mount_bpffs = Some(Box::new(mount_bpffs));
    }

    /// Compares about `entries` more entries of the maps with what they should be, and repairs
    /// drift. Returns what was repaired, also if the result is an error.
    pub fn reconcile_maps(
        &mut self,
        comparison: &mut Comparison,
        entries: usize,
    ) -> (Drift, Result<(), DataplaneError>) {
        let (mut drift, repaired) = self.reconciler.reconcile_maps(comparison, entries);
        if !comparison.is_at_its_end() {
            return (drift, repaired);
        }
        let exclusion = self.exclusion.repair().map(|count| drift.exclusion = count);
        (drift, repaired.and(exclusion))
    }

    /// How many entries a full comparison has.
    #[must_use]
    pub fn entries_to_compare(&self) -> usize {
        self.reconciler.entries_to_compare()
    }

    /// Compares the maps with what they should be, and with a plan. Changes nothing.
    pub fn compare(&self, plan: &Plan) -> Result<Drift, DataplaneError> {
        Ok(Drift {
            services: self.reconciler.pending(plan),
            exclusion: self.exclusion.drift()?,
            ..self.reconciler.compare()?
        })
    }
}
