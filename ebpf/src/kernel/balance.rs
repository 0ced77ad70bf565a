//! Choosing a backend.

use core::ptr;

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps},
    macros::btf_map,
};
use sockline_ebpf::{
    MMAPABLE,
    backend::{BACKEND_SEGMENT, BACKEND_SEGMENTS, Backend, SLOT_SEGMENT, SLOT_SEGMENTS, Slot},
    frontend::Frontend,
    id::{BackendId, BackendKey, SlotIndex},
};

use super::helpers;

#[btf_map]
static SLOTS: ArrayOfMaps<
    Array<Slot, { SLOT_SEGMENT as usize }, MMAPABLE>,
    { SLOT_SEGMENTS as usize },
> = ArrayOfMaps::new();

#[btf_map]
static BACKENDS: ArrayOfMaps<
    Array<Backend, { BACKEND_SEGMENT as usize }, MMAPABLE>,
    { BACKEND_SEGMENTS as usize },
> = ArrayOfMaps::new();

/// A backend and its id.
pub struct Chosen {
    pub id: BackendId,
    pub entry: *mut Backend,
    /// Of the backend, and not of what may follow it in the entry.
    pub generation: u32,
}

impl Chosen {
    #[inline(always)]
    pub const fn key(&self) -> BackendKey {
        BackendKey::new(self.id, self.generation)
    }

    /// What the agent wrote; it stays as it is while the entry belongs to its endpoint.
    #[inline(always)]
    pub fn backend(&self) -> &'static Backend {
        // SAFETY: array memory stays until the program ends.
        unsafe { &*self.entry }
    }
}

/// Draws a backend by weight, with one random number: its product with the number of slots has
/// the slot's index in the upper half and a fraction in the lower.
#[inline(always)]
pub fn select_weighted(frontend: &Frontend) -> Option<Chosen> {
    let product = u64::from(helpers::random()) * u64::from(frontend.slot_count);
    let SlotIndex(index) = frontend.slot_start.offset((product >> 32) as u32);
    let slot = SLOTS.get_value(index / SLOT_SEGMENT, &(index % SLOT_SEGMENT))?;
    let id = if (product as u32) < slot.threshold { slot.backend } else { slot.alias };
    by_id(id, frontend)
}

/// The entry of a backend, regardless of its current owner.
#[inline(always)]
pub fn entry(id: BackendId) -> Option<*mut Backend> {
    BACKENDS.get_value_ptr_mut(id.0 / BACKEND_SEGMENT, &(id.0 % BACKEND_SEGMENT))
}

/// The entry of a backend while it belongs to it; else null.
///
/// No `Option`: the compiler may read what is in one before it looks whether there is something, and before Linux 6.3 the
/// verifier does not let it read what nobody wrote.
#[inline(always)]
pub fn entry_of(backend: BackendKey) -> *mut Backend {
    let Some(entry) = entry(backend.id()) else { return ptr::null_mut() };
    // SAFETY: a live map value. The agent changes the generation when it removes the backend, hence volatile; it reads the
    // counts once every program has ended that may have seen the old one.
    let generation = unsafe { (&raw const (*entry).generation).read_volatile() };
    if generation == backend.generation() { entry } else { ptr::null_mut() }
}

/// A backend by its id, if it belongs to the frontend's service and may be used by the frontend.
#[inline(always)]
fn by_id(id: BackendId, frontend: &Frontend) -> Option<Chosen> {
    let entry = entry(id)?;
    // The agent takes the scopes away before it changes the generation, so the generation is read before the scopes:
    // what is remembered of a removed backend never fits its entry any more, and its end counts for the service.
    // SAFETY: live map values, which the agent writes: hence volatile.
    let (generation, scopes) = unsafe {
        let generation = (&raw const (*entry).generation).read_volatile();
        (generation, (&raw const (*entry).scopes).read_volatile())
    };
    let chosen = Chosen { id, entry, generation };
    (chosen.backend().service == frontend.service && scopes.intersects(frontend.scope))
        .then_some(chosen)
}

/// A backend that was chosen earlier, if it still is that endpoint, which its generation tells, and may
/// be used by the frontend.
#[inline(always)]
pub fn revalidate(
    id: BackendId,
    is_generation: impl Fn(u32) -> bool,
    frontend: &Frontend,
) -> Option<Chosen> {
    by_id(id, frontend).filter(|chosen| is_generation(chosen.generation))
}
