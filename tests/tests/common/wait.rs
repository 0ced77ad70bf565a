//! Waiting for a state, with a deadline.

use std::{fmt::Display, time::Duration};

use sockline_testbed::wait_ok;

/// Far longer than anything here takes, also beside other tests on a slow machine; only a failing test waits this long.
pub const DEADLINE: Duration = Duration::from_secs(120);

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
