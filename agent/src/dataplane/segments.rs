//! Arrays that grow in segments: an outer array of maps whose inner arrays are made when an index
//! in them is first used, and mapped into the agent so that writing is a memory write.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{Pod, maps::MapData};
use sockline_ebpf::MMAPABLE;

use super::{
    create,
    error::{DataplaneError, Full},
    outer::{Mended, Outer},
    sys::SharedArray,
    waits::together,
};

/// A segmented array that the agent writes.
pub struct Segments<T: Pod> {
    name: &'static str,
    outer: Outer,
    per_segment: u32,
    segments: Vec<Option<SharedArray<T>>>,
    limit: u32,
}

impl<T: Pod> Segments<T> {
    /// Opens the array with all segments that exist. `limit` is the number of indices allowed.
    pub fn open(
        name: &'static str,
        outer: Outer,
        per_segment: u32,
        limit: u32,
        writable: bool,
    ) -> Result<Self, DataplaneError> {
        let mut segments = Vec::new();
        for (index, inner) in outer.all()? {
            segments.resize_with(index as usize, || None);
            segments.push(Some(map_segment(name, inner.fd().as_fd(), per_segment, writable)?));
        }
        let limit = limit.min(outer.len().saturating_mul(per_segment));
        Ok(Self { name, outer, per_segment, segments, limit })
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

    pub fn write(&mut self, index: u32, value: T) -> Result<(), DataplaneError> {
        let (_, offset) = self.split(index);
        self.segment(index)?.write(offset, value);
        Ok(())
    }

    /// Changes a record in place, after everything that was written before.
    pub fn update(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut T),
    ) -> Result<(), DataplaneError> {
        let (_, offset) = self.split(index);
        self.segment(index)?.update(offset, change);
        Ok(())
    }

    /// Makes the segments for this many indices, as far as there are none yet: one by one, those of a
    /// million backends would take 15 s.
    pub fn reserve(&mut self, count: u32) -> Result<(), DataplaneError> {
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
            mapped.push(map_segment(self.name, array.fd().as_fd(), self.per_segment, true)?);
            arrays.push((index_of(number), array));
        }
        together(&arrays, |(number, array)| self.outer.set(*number, array))?;
        self.segments.resize_with(self.segments.len().max(wanted), || None);
        for (number, mapped) in missing.into_iter().zip(mapped) {
            self.segments[number] = Some(mapped);
        }
        Ok(())
    }

    /// See [`Outer::repair`].
    pub fn repair(&self) -> Result<Mended, DataplaneError> {
        self.outer.repair()
    }

    /// See [`Outer::displaced`].
    pub fn displaced(&self) -> Result<usize, DataplaneError> {
        self.outer.displaced()
    }

    const fn split(&self, index: u32) -> (usize, usize) {
        ((index / self.per_segment) as usize, (index % self.per_segment) as usize)
    }

    fn segment(&mut self, index: u32) -> Result<&mut SharedArray<T>, DataplaneError> {
        let (segment, _) = self.split(index);
        let exists = self.segments.get(segment).is_some_and(Option::is_some);
        // An agent with a higher limit may have made segments that this one would not.
        if index >= self.limit && !exists {
            return Err(Full { map: self.name, limit: self.limit }.into());
        }
        if segment >= self.segments.len() {
            self.segments.resize_with(segment + 1, || None);
        }
        let place = &mut self.segments[segment];
        if place.is_none() {
            let array = new_segment::<T>(self.name, self.per_segment)?;
            let mapped = map_segment(self.name, array.fd().as_fd(), self.per_segment, true)?;
            self.outer.set(index_of(segment), &array)?;
            // Last: what no program can see is not to be written.
            *place = Some(mapped);
        }
        place.as_mut().ok_or_else(|| Full { map: self.name, limit: self.limit }.into())
    }
}

fn index_of(segment: usize) -> u32 {
    u32::try_from(segment).unwrap_or(u32::MAX)
}

/// An inner map of a segmented array.
pub fn new_segment<T: Pod>(name: &'static str, len: u32) -> Result<MapData, DataplaneError> {
    create::array::<T>(name, len, MMAPABLE)
}

fn map_segment<T: Pod>(
    name: &'static str,
    array: BorrowedFd<'_>,
    len: u32,
    writable: bool,
) -> Result<SharedArray<T>, DataplaneError> {
    SharedArray::map(array, len as usize, writable)
        .map_err(|error| DataplaneError::io(format!("map a segment of `{name}`"), error))
}
