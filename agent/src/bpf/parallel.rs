//! System calls that wait for all running programs, made in parallel so that they share the wait.
//!
//! An update of an array of maps returns when no program uses the replaced map any more (Linux
//! `maybe_wait_bpf_programs`), and before Linux 6.8 so does a look-up (`bpf_map_copy_value`): 10 to 20 ms each.
//! Thousands of them one after the other took minutes.

use std::{panic::resume_unwind, thread};

use crate::bpf::error::BpfError;

/// Threads that wait at the same time.
pub const THREADS: usize = 32;

/// Calls `each` for every item, in [`THREADS`] threads that have ended when this returns. Results are in the order
/// of the items. An error ends its thread's share; the first one is returned.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    each: impl Fn(&T) -> Result<R, BpfError> + Sync,
) -> Result<Vec<R>, BpfError> {
    let work = |items: &[T]| items.iter().map(&each).collect::<Result<Vec<R>, _>>();
    if items.len() < 2 {
        return work(items);
    }
    let share = items.len().div_ceil(THREADS);
    let work = &work;
    let shares = thread::scope(|scope| {
        // Start all before joining the first.
        let started: Vec<_> = items
            .chunks(share)
            .map(|items| {
                thread::Builder::new()
                    .spawn_scoped(scope, move || work(items))
                    // If no more threads can be started, it only takes longer.
                    .map_err(|_| work(items))
            })
            .collect();
        started
            .into_iter()
            .map(|started| match started {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(done) => done,
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(shares.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::bpf::error::Full;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for count in [0, 1, 2, THREADS - 1, THREADS, THREADS + 1, 5 * THREADS + 3] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(in_parallel(&items, |item| Ok(*item)).unwrap(), items);
        }
    }

    #[test]
    fn all_wait_at_the_same_time() {
        let barrier = Barrier::new(THREADS);
        // One after the other, the first would wait forever.
        in_parallel(&[(); THREADS], |()| {
            barrier.wait();
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn one_error_is_the_result() {
        let items: Vec<u32> = (0..100).collect();
        let result = in_parallel(&items, |&item| match item {
            57 => Err(Full { map: "m", limit: 57 }.into()),
            _ => Ok(()),
        });
        assert!(result.unwrap_err().to_string().contains("57"));
    }
}
