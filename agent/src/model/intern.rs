//! One allocation for values that are equal: in a large cluster, the names of some thousand nodes
//! are in a million endpoints.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// The values that were seen. Those that nobody else holds any more go from time to time.
#[derive(Debug)]
pub struct Interner<T: ?Sized + Eq + Hash> {
    values: HashSet<Arc<T>>,
    /// At this many values the unused ones are looked for.
    sweep_at: usize,
}

/// Not worth looking for unused ones before.
const SMALL: usize = 1024;

impl<T: ?Sized + Eq + Hash> Interner<T> {
    pub fn new() -> Self {
        Self { values: HashSet::new(), sweep_at: SMALL }
    }

    /// Puts the first equal value in the place of this one.
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
    fn values_that_nobody_holds_go() {
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
