//! What the agent has already counted of connections while they were open: see [`sockline_ebpf::partly_counted`].

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sockline_ebpf::{
    MMAPABLE,
    partly_counted::{PLACES, Part, PartlyCounted, State},
};

use crate::kernel::helpers;

#[btf_map]
static PARTLY_COUNTED: Array<PartlyCounted, { PLACES as usize }, MMAPABLE> = Array::new();

/// Ends a connection whose record is marked, and returns the part that the agent has counted. Null if there is none, for
/// the reason that `balance::entry_of` gives.
#[inline(always)]
pub fn end(place: u32) -> *const Part {
    // Without the socket table no record is marked.
    if !crate::HAS_COMPARE_AND_SWAP {
        return ptr::null();
    }
    let Some(entry) = PARTLY_COUNTED.get_ptr_mut(place & (PLACES - 1)) else { return ptr::null() };
    // SAFETY: a live map value. The agent writes the part that is not valid only.
    unsafe {
        let state = State(helpers::exchange(&raw mut (*entry).state.0, State::ENDED));
        let first = (&raw mut (*entry).parts).cast::<Part>();
        helpers::element_at::<_, 1>(first, state.valid())
    }
}

/// What is left to count of a field of [`Part`], which is `FIELD` bytes from its begin. A socket that was taken down by
/// `connect(AF_UNSPEC)` has less than before.
///
/// # Safety
///
/// `counted` must be null or point to a part in a live map value.
#[inline(always)]
pub unsafe fn rest<const FIELD: usize>(whole: u64, counted: *const Part) -> u64 {
    if counted.is_null() {
        return whole;
    }
    // SAFETY: the caller's promise.
    whole.saturating_sub(unsafe { ptr::read_volatile(counted.byte_add(FIELD).cast()) })
}
