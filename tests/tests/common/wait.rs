//! Waiting for a state, with a deadline.

use std::fmt::Display;

pub use sockline_testbed::DEADLINE;
use sockline_testbed::wait_ok;

/// Waits until `probe` returns a value; fails with its last error.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    match wait_ok(DEADLINE, what, probe) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

/// `Ok` if it holds, else the reason.
pub fn holds(condition: bool, seen: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen.to_string()) }
}
