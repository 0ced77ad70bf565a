//! Array maps in the agent's memory, which running programs read and write at the same time.
//!
//! No reference to that memory is ever created, because the memory changes: `memmap2` maps it as `MmapRaw`, since its
//! slices would be such references. Every access is an atomic one of an
//! aligned integer. Programs count with atomic instructions and read with plain loads of aligned integers, so they
//! see no integer half-written. Only the processor and the compiler order their loads; `backend_entry` says what
//! follows from that.
#![expect(unsafe_code, reason = "this is the boundary to the kernel")]

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    ptr,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

use aya::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// An array map's memory (`BPF_F_MMAPABLE`, Linux 5.5). The owner makes sure that there is one writer.
#[derive(Debug)]
pub struct SharedArray<T> {
    memory: MmapRaw,
    len: usize,
    record: PhantomData<fn() -> T>,
}

/// A field of the records of an array.
#[derive(Debug)]
pub struct Field<T, F> {
    offset: usize,
    kind: PhantomData<fn(&T) -> &F>,
}

impl<T, F> Clone for Field<T, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, F> Copy for Field<T, F> {}

impl<T, F> Field<T, F> {
    /// The field at an offset; `get` says of which type it is.
    pub const fn new(offset: usize, _get: fn(&T) -> &F) -> Self {
        assert!(offset + size_of::<F>() <= size_of::<T>(), "a field lies within its record");
        assert!(offset.is_multiple_of(align_of::<F>()), "a field is aligned");
        assert!(align_of::<F>() <= align_of::<T>(), "a field is aligned wherever its record is");
        Self { offset, kind: PhantomData }
    }
}

/// What a map is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// And to read.
    Write,
}

impl<T: Pod> SharedArray<T> {
    /// Maps an array of `len` records; to write, it must have been opened to be written.
    pub fn map(array: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(len * size_of::<T>());
        let memory = match access {
            Access::Read => options.map_raw_read_only(&array),
            Access::Write => options.map_raw(&array),
        }?;
        Ok(Self { memory, len, record: PhantomData })
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    /// One record.
    pub fn cell(&self, index: usize) -> Cell<'_, T> {
        assert!(index < self.len, "index {index} of a shared array of {}", self.len);
        // SAFETY: within the mapping, which lives as long as self.
        let start = unsafe { self.memory.as_mut_ptr().cast::<T>().add(index) };
        Cell { start, array: PhantomData }
    }

    /// A copy of a record. Each of its integers is whole; together they may be of two moments.
    pub fn read(&self, index: usize) -> T {
        self.cell(index).read()
    }
}

impl SharedArray<u64> {
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word, beside others who may do so. Programs that are called afterwards see it.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Takes from a word that programs add to. It does not go below 0.
    pub fn subtract(&self, index: usize, count: u64) {
        let less = |word: u64| Some(word.saturating_sub(count));
        let _ = self.word(index).fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: in bounds, aligned, and alive as long as self; everybody accesses it by whole words.
        unsafe { AtomicU64::from_ptr(self.cell(index).start) }
    }
}

/// A record of a [`SharedArray`]. Only one that was mapped writable can be written.
#[derive(Debug)]
pub struct Cell<'a, T> {
    start: *mut T,
    array: PhantomData<&'a SharedArray<T>>,
}

impl<T: Pod> Cell<'_, T> {
    /// See [`SharedArray::read`].
    pub fn read(&self) -> T {
        // SAFETY: of the array, aligned as in `SharedArray::map` (mappings are page-aligned).
        unsafe { load(self.start) }
    }

    /// Writes a record that no program looks at.
    pub fn write(&self, value: T) {
        // SAFETY: as in `read`, and mapped writable.
        unsafe { store(self.start, value) };
    }

    pub fn get<F: Pod>(&self, field: Field<T, F>) -> F {
        // SAFETY: as in `read`; `Field::new` saw that it lies within the record and is aligned.
        unsafe { load(self.start.byte_add(field.offset).cast()) }
    }

    /// Changes a field: a single integer at once, others word by word.
    pub fn set<F: Pod>(&self, field: Field<T, F>, value: F) {
        // SAFETY: as in `get`, and mapped writable.
        unsafe { store(self.start.byte_add(field.offset).cast(), value) };
    }

    /// As [`Self::set`], and what was written before, also to other arrays, is visible to programs
    /// before it.
    pub fn publish<F: Pod>(&self, field: Field<T, F>, value: F) {
        fence(Ordering::Release);
        self.set(field, value);
    }

    /// As [`Self::set`], and visible to programs before what is written after it.
    pub fn withdraw<F: Pod>(&self, field: Field<T, F>, value: F) {
        self.set(field, value);
        fence(Ordering::SeqCst);
    }
}

impl<T: Pod> Cell<'_, T> {
    /// Adds to a count that programs add to.
    pub fn add(&self, field: Field<T, u64>, more: u64) {
        self.word(field).fetch_add(more, Ordering::Relaxed);
    }

    /// Changes a word that programs change. What was written before is visible to them before it. Returns whether the word
    /// was `old`.
    pub fn compare_exchange(&self, field: Field<T, u64>, old: u64, new: u64) -> bool {
        let (success, failure) = (Ordering::SeqCst, Ordering::Relaxed);
        self.word(field).compare_exchange(old, new, success, failure).is_ok()
    }

    fn word(&self, field: Field<T, u64>) -> &AtomicU64 {
        // SAFETY: as in `get`, and mapped writable; it is accessed by whole words.
        unsafe { AtomicU64::from_ptr(self.start.byte_add(field.offset).cast()) }
    }
}

/// Calls `$each` with the atomic type that a `Pod` of this alignment is made of.
macro_rules! by_words {
    ($type:ty, $each:ident, $at:expr, $copy:expr) => {
        match align_of::<$type>() {
            8 => $each!(AtomicU64, u64, $type, $at, $copy),
            4 => $each!(AtomicU32, u32, $type, $at, $copy),
            2 => $each!(AtomicU16, u16, $type, $at, $copy),
            _ => $each!(AtomicU8, u8, $type, $at, $copy),
        }
    };
}

macro_rules! load_words {
    ($atomic:ty, $word:ty, $type:ty, $at:expr, $copy:expr) => {
        for index in 0..size_of::<$type>() / size_of::<$word>() {
            let from = <$atomic>::from_ptr($at.cast::<$word>().add(index));
            $copy.cast::<$word>().add(index).write(from.load(Ordering::Relaxed));
        }
    };
}

macro_rules! store_words {
    ($atomic:ty, $word:ty, $type:ty, $at:expr, $copy:expr) => {
        for index in 0..size_of::<$type>() / size_of::<$word>() {
            let to = <$atomic>::from_ptr($at.cast::<$word>().add(index));
            to.store($copy.cast::<$word>().add(index).read(), Ordering::Relaxed);
        }
    };
}

/// # Safety
/// `from` is aligned and in a live mapping.
unsafe fn load<F: Pod>(from: *mut F) -> F {
    let mut copy = MaybeUninit::<F>::uninit();
    let to = copy.as_mut_ptr();
    // SAFETY: the caller's word for `from`. A type's size is a multiple of its alignment, so these words
    // are all of it, each aligned; any bits are a valid F (Pod).
    unsafe {
        by_words!(F, load_words, from, to);
        copy.assume_init()
    }
}

/// # Safety
/// `to` is aligned and in a live mapping that may be written.
unsafe fn store<F: Pod>(to: *mut F, value: F) {
    let from = ptr::from_ref(&value);
    // SAFETY: as in `load`. A Pod has no padding, so all of it is there to be read.
    unsafe { by_words!(F, store_words, to, from) };
}

#[cfg(test)]
mod tests {
    use std::{mem::offset_of, os::fd::AsFd as _};

    use sockline_ebpf::{
        MMAPABLE,
        address::Address,
        backend::{Backend, Scopes, Slot},
        id::{BackendId, ServiceId},
    };

    use super::*;
    use crate::bpf::kinds::create;

    fn array<T: Pod>() -> SharedArray<T> {
        let map = create::array::<T>("SHARED", 4, MMAPABLE).unwrap();
        SharedArray::map(map.fd().as_fd(), 4, Access::Write).unwrap()
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_field_changes_nothing_else() {
        const ADDRESS: Field<Backend, Address> =
            Field::new(offset_of!(Backend, address), |backend| &backend.address);
        const PORT: Field<Backend, u16> =
            Field::new(offset_of!(Backend, port), |backend| &backend.port);
        const SCOPES: Field<Backend, Scopes> =
            Field::new(offset_of!(Backend, scopes), |backend| &backend.scopes);
        let array = array::<Backend>();
        let address = Address { words: [1, 2, 3, 4] };
        let mut backend =
            Backend { address, service: ServiceId(5), port: 6, weight: 7, ..Backend::default() };
        backend.counts.opened = u64::MAX - 1;
        array.cell(2).write(backend);
        assert_eq!(array.read(2), backend);
        let other = Address { words: [8, 9, 10, 11] };
        array.cell(2).set(ADDRESS, other);
        array.cell(2).publish(PORT, 12);
        array.cell(2).withdraw(SCOPES, Scopes::all());
        assert_eq!(
            array.read(2),
            Backend { address: other, port: 12, scopes: Scopes::all(), ..backend }
        );
        assert_eq!(array.cell(2).get(ADDRESS), other);
        assert_eq!(array.read(1), Backend::default());
        assert_eq!(array.read(3), Backend::default());
    }

    #[test]
    fn records_of_any_alignment_are_read_as_they_were_written() {
        let slots = array::<Slot>();
        let slot = Slot { backend: BackendId(1), alias: BackendId(2), threshold: 3, padding: 0 };
        slots.cell(3).write(slot);
        assert_eq!(slots.read(3), slot);
        let words = array::<u64>();
        words.cell(0).write(u64::MAX);
        assert_eq!(words.read(0), u64::MAX);
    }
}
