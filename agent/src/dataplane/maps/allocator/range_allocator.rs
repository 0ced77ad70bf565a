//! Allocates ranges of an index space: first fit, adjacent free ranges merged.

use std::collections::BTreeMap;

/// Free ranges of an index space. Allocates only below `limit`; a range that an agent with a higher
/// limit allocated can still be claimed.
#[derive(Debug)]
pub struct RangeAllocator {
    /// start → length
    free: BTreeMap<u32, u32>,
    used: u32,
    limit: u32,
}

impl RangeAllocator {
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { free: BTreeMap::from([(0, u32::MAX)]), used: 0, limit }
    }

    /// How many indices are allocated.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Allocates the lowest free range of `count` indices; `None` if there is none.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        let (&start, &length) = self
            .free
            .range(..self.limit)
            .find(|&(_, &length)| length >= count)
            .filter(|&(&start, _)| count <= self.limit - start)?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        self.used += count;
        Some(start)
    }

    /// Allocates the lowest free index from this one on; when there is none, the lowest of all.
    pub fn take_next(&mut self, from: u32) -> Option<u32> {
        let within = self.free.range(..=from).next_back().filter(|&(&start, &length)| {
            let free = start..start.saturating_add(length);
            free.contains(&from)
        });
        let start = match within {
            Some(_) => Some(from),
            None => self.free.range(from..).next().map(|(&start, _)| start),
        };
        match start.filter(|&start| start < self.limit) {
            Some(start) => self.take_at(start, 1).then_some(start),
            None => self.take(1),
        }
    }

    /// Whether an index is free.
    #[must_use]
    pub fn is_free(&self, index: u32) -> bool {
        let before = self.free.range(..=index).next_back();
        before.is_some_and(|(&start, &length)| index - start < length)
    }

    /// Claims a given range; false if a part of it is allocated.
    pub fn take_at(&mut self, start: u32, count: u32) -> bool {
        let Some((&from, &length)) = self.free.range(..=start).next_back() else { return false };
        let (Some(end), free_end) = (start.checked_add(count), from + length) else { return false };
        if end > free_end {
            return false;
        }
        self.free.remove(&from);
        if start > from {
            self.free.insert(from, start - from);
        }
        if free_end > end {
            self.free.insert(end, free_end - end);
        }
        self.used += count;
        true
    }

    /// Frees a range.
    pub fn give(&mut self, start: u32, count: u32) {
        self.used -= count;
        let (mut start, mut count) = (start, count);
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            start = before;
            count += length;
        }
        if let Some(length) = self.free.remove(&(start + count)) {
            count += length;
        }
        self.free.insert(start, count);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_given_back_is_merged_and_taken_again() {
        let mut ranges = RangeAllocator::new(10);
        let (a, b, c) = (ranges.take(3), ranges.take(3), ranges.take(4));
        assert_eq!((a, b, c), (Some(0), Some(3), Some(6)));
        assert_eq!(ranges.take(1), None, "all ten are taken");
        ranges.give(0, 3);
        ranges.give(6, 4);
        ranges.give(3, 3);
        assert_eq!(ranges.take(10), Some(0), "the three neighbours are one range again");
    }

    #[test]
    fn the_next_index_comes_again_only_after_all_others() {
        let mut ranges = RangeAllocator::new(4);
        assert_eq!(ranges.take_next(1), Some(1));
        ranges.give(1, 1);
        assert_eq!(ranges.take_next(2), Some(2));
        assert_eq!(ranges.take_next(2), Some(3), "2 is taken");
        assert_eq!(ranges.take_next(4), Some(0), "there is none behind 3");
        assert_eq!((ranges.take_next(1), ranges.take_next(2)), (Some(1), None));
    }

    #[test]
    fn a_range_can_be_claimed_only_once() {
        let mut ranges = RangeAllocator::new(10);
        assert!(ranges.take_at(4, 3));
        assert!(!ranges.take_at(6, 2), "6 is taken");
        assert_eq!(ranges.take(4), Some(0));
        assert_eq!(ranges.take(3), Some(7));
    }

    #[test]
    fn a_range_above_the_limit_can_be_claimed_and_given_back_but_is_not_taken() {
        let mut ranges = RangeAllocator::new(10);
        assert!(ranges.take_at(9, 3), "claimed");
        assert_eq!(ranges.take(9), Some(0));
        ranges.give(9, 3);
        assert_eq!(ranges.take(2), None, "11 is above the limit");
        assert_eq!(ranges.take(1), Some(9));
        assert_eq!(ranges.used(), 10);
    }

    proptest! {
        #[test]
        fn no_index_is_ever_handed_out_twice(steps in prop::collection::vec((any::<bool>(), 1u32..9), 1..200)) {
            let mut ranges = RangeAllocator::new(128);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, count) in steps {
                if take || held.is_empty() {
                    if let Some(start) = ranges.take(count) {
                        held.push((start, count));
                    }
                } else {
                    let (start, count) = held.swap_remove(count as usize % held.len());
                    ranges.give(start, count);
                }
                let indices: Vec<u32> = held.iter().flat_map(|&(start, count)| start..start + count).collect();
                let distinct: BTreeSet<_> = indices.iter().collect();
                prop_assert_eq!(distinct.len(), indices.len());
                prop_assert!(indices.iter().all(|&index| index < 128));
                prop_assert!((0..130).all(|index| ranges.is_free(index) != distinct.contains(&index)));
                prop_assert_eq!(ranges.used() as usize, indices.len());
            }
        }
    }
}
