//! Records that do not fit into the socket table: a hash by cookie, whose entries end with their sockets, and the
//! number of units that each cgroup uses.
//!
//! The memory is charged to the agent's container, which made the maps, and any pod can open sockets: so
//! there is a limit for all together and one for each cgroup. Beyond it a connection is served without a
//! record.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    MMAPABLE, NO_PREALLOC,
    counters::Fault,
    socket::{
        CGROUP_UNITS, HOST, OVERFLOW_UNITS, OverflowCount, OverflowEntry, RECORD_UNITS,
        ROOT_CGROUP, SocketRecord, WHOLE, place_of,
    },
};

use super::helpers;

#[btf_map]
static OVERFLOW: HashMap<u64, OverflowEntry, { OVERFLOW_UNITS as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
static OVERFLOW_COUNTS: Array<OverflowCount, { HOST as usize + 1 }, MMAPABLE> = Array::new();

/// Whether any socket has a record beyond the table. As long as none has, reading it is all that
/// sockets pay.
#[inline(always)]
pub fn is_in_use() -> bool {
    let Some(all) = OVERFLOW_COUNTS.get_ptr_mut(WHOLE) else { return false };
    // SAFETY: a live map value, which other CPUs write: hence volatile.
    unsafe {
        ((&raw const (*all).units).read_volatile()
            | (&raw const (*all).has_kernel_storage).read_volatile())
            != 0
    }
}

/// Records that there is socket storage whose units are not counted.
#[inline(always)]
pub fn mark_kernel_storage() {
    if let Some(all) = OVERFLOW_COUNTS.get_ptr_mut(WHOLE) {
        // SAFETY: a live map value; all programs write the same value.
        unsafe { (&raw mut (*all).has_kernel_storage).write_volatile(1) };
    }
}

#[inline(always)]
pub fn find(cookie: u64) -> Option<*mut OverflowEntry> {
    OVERFLOW.get_ptr_mut(cookie)
}

/// Makes a socket's entry. `Ok(None)`: there is one already.
#[inline(always)]
pub fn make(cookie: u64, record: &SocketRecord) -> Result<Option<()>, Fault> {
    const EXISTS: i32 = -17;
    let cgroup = helpers::current_cgroup();
    take(cgroup, RECORD_UNITS)?;
    let entry = OverflowEntry { owner: cookie, record: *record, cgroup, units: RECORD_UNITS };
    let made = OVERFLOW.insert(cookie, entry, BPF_NOEXIST.into());
    if made.is_err() {
        give_back(cgroup, RECORD_UNITS);
    }
    match made {
        Ok(()) => Ok(Some(())),
        Err(EXISTS) => Ok(None),
        Err(_) => Err(Fault::NotRemembered),
    }
}

/// Ends a socket's entry, and gives back all that it was charged for. Returns whether it was there: the agent may
/// have removed it, and then has counted its connection as untracked.
#[inline(always)]
pub fn release(cookie: u64) -> bool {
    let Some(entry) = find(cookie) else { return false };
    // SAFETY: a live map value. Only this socket's calls change it, and this is the last.
    let (cgroup, units) = unsafe { ((*entry).cgroup, (*entry).units) };
    if OVERFLOW.remove(cookie).is_err() {
        return false;
    }
    give_back(cgroup, units);
    true
}

/// Charges a cgroup, unless that would be beyond a limit. Calls at the same time on other CPUs may each
/// go beyond it once.
#[inline(always)]
pub fn take(cgroup: u64, units: u64) -> Result<(), Fault> {
    let (Some(all), Some(own)) =
        (OVERFLOW_COUNTS.get_ptr_mut(WHOLE), OVERFLOW_COUNTS.get_ptr_mut(place_of(cgroup)))
    else {
        return Err(Fault::NotRemembered);
    };
    // SAFETY: live map values, which other CPUs write: hence volatile.
    unsafe {
        let of_all = (&raw const (*all).units).read_volatile();
        let of_own = (&raw const (*own).units).read_volatile();
        let is_beyond = of_all + units > u64::from(OVERFLOW_UNITS)
            || (cgroup != ROOT_CGROUP && of_own + units > CGROUP_UNITS);
        if is_beyond {
            helpers::add(&raw mut (*own).refused, 1);
            (&raw mut (*own).cgroup).write_volatile(cgroup);
            return Err(Fault::SocketLimit);
        }
    }
    add(cgroup, units);
    Ok(())
}

#[inline(always)]
pub fn give_back(cgroup: u64, units: u64) {
    add(cgroup, units.wrapping_neg());
}

#[inline(always)]
fn add(cgroup: u64, units: u64) {
    for place in [WHOLE, place_of(cgroup)] {
        if let Some(count) = OVERFLOW_COUNTS.get_ptr_mut(place) {
            // SAFETY: a live map value.
            unsafe { helpers::add(&raw mut (*count).units, units) };
        }
    }
}
