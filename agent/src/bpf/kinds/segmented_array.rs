//! Arrays that grow in segments: an array of maps whose inner arrays are created when an index in them is first
//! used. They are mapped into the agent's memory, so that a write is a memory write.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use aya::{Pod, maps::MapData};
use sockline_ebpf::MMAPABLE;

use super::{
    array_of_maps::{ArrayOfMaps, Repaired},
    create,
};
use crate::bpf::{
    error::{BpfError, Full},
    mmap::{Access, Cell, SharedArray},
    parallel::in_parallel,
};

/// A segmented array that the agent writes.
pub struct SegmentedArray<T: Pod> {
    name: &'static str,
    array_of_maps: ArrayOfMaps,
    per_segment: u32,
    segments: Vec<Segment<T>>,
    limit: u32,
    /// The segments for readers of other threads.
    shared: Shared<T>,
}

/// `None` where none was made yet.
type Segment<T> = Option<Arc<SharedArray<T>>>;

type Shared<T> = Arc<Mutex<Vec<Segment<T>>>>;

/// All segments of a segmented array, including later ones. Reading opens nothing and blocks no writer.
pub struct Reader<T: Pod>(Shared<T>);

impl<T: Pod> Reader<T> {
    /// The segments that there are now.
    pub fn segments(&self) -> Vec<Arc<SharedArray<T>>> {
        lock(&self.0).iter().flatten().cloned().collect()
    }

    /// The record at an index; `None` if there is no segment for it.
    pub fn read(&self, index: u32) -> Option<T> {
        let segments = lock(&self.0);
        // All have the same length.
        let length = segments.iter().flatten().next()?.len();
        let segment = segments.get(index as usize / length)?.as_ref()?;
        Some(segment.read(index as usize % length))
    }
}

/// Segments are inserted whole, so the list is consistent after a panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Pod> SegmentedArray<T> {
    /// Opens the array with all segments that exist. `limit` is the number of indices allowed.
    pub fn open(
        name: &'static str,
        array_of_maps: ArrayOfMaps,
        per_segment: u32,
        limit: u32,
        access: Access,
    ) -> Result<Self, BpfError> {
        let mut segments = Vec::new();
        for (index, inner) in array_of_maps.all()? {
            segments.resize_with(index as usize, || None);
            let segment = map_segment(name, inner.fd().as_fd(), per_segment, access)?;
            segments.push(Some(Arc::new(segment)));
        }
        let limit = limit.min(array_of_maps.len().saturating_mul(per_segment));
        let shared = Arc::new(Mutex::new(segments.clone()));
        Ok(Self { name, array_of_maps, per_segment, segments, limit, shared })
    }

    pub fn reader(&self) -> Reader<T> {
        Reader(Arc::clone(&self.shared))
    }

    /// Indices that memory exists for.
    pub fn allocated(&self) -> u32 {
        u32::try_from(self.segments.iter().flatten().count()).unwrap_or(u32::MAX) * self.per_segment
    }

    /// One more than the highest index that memory exists for.
    pub fn allocated_to(&self) -> u32 {
        index_of(self.segments.len()) * self.per_segment
    }

    pub const fn limit(&self) -> u32 {
        self.limit
    }

    pub fn read(&self, index: u32) -> Option<T> {
        let (segment, offset) = self.split(index);
        Some(self.segments.get(segment)?.as_ref()?.read(offset))
    }

    /// All indices that memory exists for.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments
            .iter()
            .zip(0..)
            .filter(|(segment, _)| segment.is_some())
            .flat_map(|(_, number)| number * self.per_segment..(number + 1) * self.per_segment)
    }

    /// The record at an index, to be written.
    pub fn cell(&mut self, index: u32) -> Result<Cell<'_, T>, BpfError> {
        let (_, offset) = self.split(index);
        Ok(self.segment(index)?.cell(offset))
    }

    /// Creates the missing segments for this many indices in parallel: one by one, those of a million backends take
    /// 15 s.
    pub fn reserve(&mut self, count: u32) -> Result<(), BpfError> {
        let wanted = count.min(self.limit).div_ceil(self.per_segment) as usize;
        let missing: Vec<usize> = (0..wanted)
            .filter(|&number| self.segments.get(number).is_none_or(Option::is_none))
            .collect();
        // A single one is made when it is needed.
        if missing.len() < 2 {
            return Ok(());
        }
        let mut arrays = Vec::with_capacity(missing.len());
        let mut mapped = Vec::with_capacity(missing.len());
        for &number in &missing {
            let array = new_segment::<T>(self.name, self.per_segment)?;
            mapped.push(map_segment(
                self.name,
                array.fd().as_fd(),
                self.per_segment,
                Access::Write,
            )?);
            arrays.push((index_of(number), array));
        }
        in_parallel(&arrays, |(number, array)| self.array_of_maps.set(*number, array))?;
        self.segments.resize_with(self.segments.len().max(wanted), || None);
        for (number, mapped) in missing.into_iter().zip(mapped) {
            self.segments[number] = Some(Arc::new(mapped));
        }
        lock(&self.shared).clone_from(&self.segments);
        Ok(())
    }

    /// See [`ArrayOfMaps::repair`].
    pub fn repair(&self) -> Result<Repaired, BpfError> {
        self.array_of_maps.repair()
    }

    /// See [`ArrayOfMaps::displaced`].
    pub fn displaced(&self) -> Result<usize, BpfError> {
        self.array_of_maps.displaced()
    }

    const fn split(&self, index: u32) -> (usize, usize) {
        ((index / self.per_segment) as usize, (index % self.per_segment) as usize)
    }

    fn segment(&mut self, index: u32) -> Result<&SharedArray<T>, BpfError> {
        let (segment, _) = self.split(index);
        let exists = self.segments.get(segment).is_some_and(Option::is_some);
        // An earlier agent with a higher limit may have created segments above this one's limit.
        if index >= self.limit && !exists {
            return Err(Full { map: self.name, limit: self.limit }.into());
        }
        if segment >= self.segments.len() {
            self.segments.resize_with(segment + 1, || None);
        }
        if self.segments[segment].is_none() {
            let array = new_segment::<T>(self.name, self.per_segment)?;
            let mapped =
                map_segment(self.name, array.fd().as_fd(), self.per_segment, Access::Write)?;
            self.array_of_maps.set(index_of(segment), &array)?;
            // Last, so that nothing is written where no program can see it.
            self.segments[segment] = Some(Arc::new(mapped));
            lock(&self.shared).clone_from(&self.segments);
        }
        self.segments[segment]
            .as_deref()
            .ok_or_else(|| Full { map: self.name, limit: self.limit }.into())
    }
}

fn index_of(segment: usize) -> u32 {
    u32::try_from(segment).unwrap_or(u32::MAX)
}

/// An inner map of a segmented array.
pub fn new_segment<T: Pod>(name: &'static str, len: u32) -> Result<MapData, BpfError> {
    create::array::<T>(name, len, MMAPABLE)
}

fn map_segment<T: Pod>(
    name: &'static str,
    array: BorrowedFd<'_>,
    len: u32,
    access: Access,
) -> Result<SharedArray<T>, BpfError> {
    SharedArray::map(array, len as usize, access)
        .map_err(|error| BpfError::io(format!("map a segment of `{name}`"), error))
}
