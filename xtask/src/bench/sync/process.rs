//! A process's CPU time and memory, from /proc.

use std::{fs, time::Instant};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

#[derive(Clone)]
pub(crate) struct Usage {
    at: Instant,
    /// CPU time of all threads, in seconds.
    cpu: f64,
    /// In bytes, including the pages of mapped BPF arrays.
    pub(crate) resident: u64,
    pub(crate) highest: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may contain blanks. User and system time are fields 14 and 15.
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok());
        let ticks = ticks(14).zip(ticks(15)).context("/proc/PID/stat has no times")?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("/proc/PID/status has no {name}"))
        };
        Ok(Self {
            at: Instant::now(),
            cpu: (ticks.0 + ticks.1) / per_second as f64,
            resident: kilobytes("VmRSS")? * 1024,
            highest: kilobytes("VmHWM")? * 1024,
        })
    }

    /// The share of one core that the process has used since.
    pub(crate) fn cpu_share(&self, before: &Self) -> f64 {
        (self.cpu - before.cpu) / (self.at - before.at).as_secs_f64()
    }
}
