//! One allocation for equal values: in a large cluster, a million endpoints have the names of some thousand nodes.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// The known values. Unused ones are removed at times.
#[derive(Debug)]
pub struct Interner<T: ?Sized + Eq + Hash> {
    values: HashSet<Arc<T>>,
    /// At this number of values, unused ones are removed.
    sweep_at: usize,
}

/// With fewer values, unused ones stay.
const SMALL: usize = 1024;

impl<T: ?Sized + Eq + Hash> Interner<T> {
    pub fn new() -> Self {
        Self { values: HashSet::new(), sweep_at: SMALL }
    }

    /// Replaces this value with the first equal one.
    pub fn share(&mut self, value: &mut Arc<T>) {
        if let Some(first) = self.values.get(value) {
            *value = Arc::clone(first);
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = SMALL.max(self.values.len() * 2);
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_allocation() {
        let mut names = Interner::new();
        let (mut a, mut b): (Arc<str>, Arc<str>) = ("node".into(), "node".into());
        names.share(&mut a);
        names.share(&mut b);
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn unused_values_are_removed() {
        let mut names = Interner::new();
        let mut kept: Arc<str> = "kept".into();
        names.share(&mut kept);
        for number in 0..10 * SMALL {
            names.share(&mut format!("node-{number}").into());
        }
        assert!(names.values.len() <= SMALL, "{}", names.values.len());
        assert!(names.values.contains("kept"));
    }
}
