//! The agent's memory and CPU time, once a second.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{bench::Usage, term::Progress};

pub(super) struct Samples {
    resident: Vec<f64>,
    cpu_share: f64,
}

impl Samples {
    /// Takes a sample every second for this time.
    pub(super) fn take(pid: u32, time: Duration) -> Result<Self> {
        let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or_default();
        let progress = Progress::new("pressure", seconds(time));
        let began = Instant::now();
        let before = Usage::of(pid).context("reading the agent's usage: does it still run?")?;
        let mut resident = Vec::new();
        let mut now = before.clone();
        while began.elapsed() < time {
            thread::sleep(Duration::from_secs(1));
            now = Usage::of(pid).context("reading the agent's usage: does it still run?")?;
            resident.push(now.resident as f64);
            progress.set(seconds(began.elapsed()));
        }
        Ok(Self { resident, cpu_share: now.cpu_share(&before) })
    }

    /// The median of each quarter of the time after the warm-up, which is the first fifth.
    pub(super) fn medians(&self) -> Vec<f64> {
        let warm = &self.resident[self.resident.len() / 5..];
        let quarters = warm.chunks(warm.len().div_ceil(4).max(1));
        let medians = quarters.map(|quarter| {
            let mut sorted = quarter.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        });
        medians.collect()
    }

    /// Growth from the first quarter to the last one, as a share.
    pub(super) fn growth(&self) -> f64 {
        let medians = self.medians();
        match (medians.first(), medians.last()) {
            (Some(first), Some(last)) => last / first - 1.0,
            _ => 0.0,
        }
    }

    /// Of one core.
    pub(super) const fn cpu_share(&self) -> f64 {
        self.cpu_share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: Vec<f64>) -> Samples {
        Samples { resident, cpu_share: 0.0 }
    }

    #[test]
    fn steady_growth_is_seen() {
        assert!(samples((0..300).map(|n| 100.0 + f64::from(n) / 10.0).collect()).growth() > 0.1);
    }

    #[test]
    fn warm_up_and_spikes_do_not_count() {
        let level = |n: u32| if n < 40 { 50.0 } else { 100.0 };
        let spike = |n: u32| if n == 299 { 500.0 } else { 0.0 };
        let growth = samples((0..300).map(|n| level(n) + spike(n)).collect()).growth();
        assert!(growth.abs() < 0.01, "{growth}");
    }
}
