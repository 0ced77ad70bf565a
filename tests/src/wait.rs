//! Waits for a condition, with a deadline and an error that has what was seen.

use std::{
    env,
    fmt::Display,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Far longer than anything that a test waits for takes, also on a machine that is ten times slower and busy with
/// other tests: only a failing test waits this long.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A socket that hears nothing for this long gets no answer: all servers are on this machine. Shorter than
/// [`DEADLINE`], because a lost datagram is asked for again.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Short enough for the demo's measurements, long enough not to compete for a core.
const PAUSE: Duration = Duration::from_millis(2);

/// `SOCKLINE_TEST_PATIENCE=N`: everything may take N times as long, because the machine is emulated.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| match env::var("SOCKLINE_TEST_PATIENCE") {
    Err(_) => 1,
    Ok(factor) => factor.parse().expect("SOCKLINE_TEST_PATIENCE is a whole number"),
});

/// The deadline on this machine for what takes no longer than `deadline` on one that is not emulated.
#[must_use]
pub fn patience(deadline: Duration) -> Duration {
    deadline * *PATIENCE
}

/// The number of repetitions on this machine for `times` on one that is not emulated.
#[must_use]
pub fn repetitions(times: usize) -> usize {
    times.div_ceil(*PATIENCE as usize)
}

/// Calls `probe` until it returns a value, for at most the [`patience`] of `deadline`.
///
/// # Errors When the deadline has passed; the message has what was waited for and how long.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    wait_ok(deadline, what, || probe().ok_or("it did not happen"))
}

/// Like [`wait_until`], for a probe that returns a reason: the last reason becomes part of the error.
///
/// # Errors When the deadline has passed.
pub fn wait_ok<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let (deadline, start) = (patience(deadline), Instant::now());
    let mut tries = 0_u32;
    loop {
        tries += 1;
        let reason = match probe() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what} ({tries} tries): {reason:#}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_asked_until_it_has_a_value() {
        let mut tries = 0;
        let got = wait_until(Duration::from_secs(5), "the third try", || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn the_error_says_what_was_waited_for_and_what_was_seen_last() {
        let error = wait_ok(Duration::ZERO, "the answer", || Err::<(), _>("41")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for the answer (1 tries): 41");
    }
}
