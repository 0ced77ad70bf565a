//! A value that threads use in turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// As a mutex, but a thread that gives the value back and takes it again comes after one that waits for it: a mutex lets it
/// be first each time.
#[derive(Debug, Default)]
pub struct Turns<T> {
    /// Held by a thread while it waits for the value.
    next: Mutex<()>,
    value: Mutex<T>,
}

impl<T> Turns<T> {
    /// Waits for the value.
    pub fn take(&self) -> MutexGuard<'_, T> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, unless another thread has it.
    pub fn try_take(&self) -> Option<MutexGuard<'_, T>> {
        self.value.try_lock().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_thread_that_takes_the_value_again_comes_after_one_that_waits() {
        let turns = Turns::<Vec<&str>>::default();
        for _ in 0..100 {
            thread::scope(|scope| {
                let first = turns.take();
                scope.spawn(|| turns.take().push("waited"));
                let deadline = Instant::now() + Duration::from_secs(30);
                while turns.next.try_lock().is_ok() {
                    assert!(Instant::now() < deadline, "nobody waits");
                    thread::yield_now();
                }
                drop(first);
                turns.take().push("again");
            });
        }
        let order = turns.take();
        assert!(order.chunks(2).all(|pair| pair == ["waited", "again"]), "{order:?}");
    }

    #[test]
    fn nobody_gets_a_value_that_is_taken() {
        let turns = Turns::<()>::default();
        let taken = turns.take();
        assert!(turns.try_take().is_none());
        drop(taken);
        assert!(turns.try_take().is_some());
    }
}
