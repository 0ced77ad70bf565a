//! How often the programs ran and for how long, which the kernel counts while it is asked to (`sysctl
//! kernel.bpf_stats_enabled=1`, Linux 5.1).

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

/// Since the program was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStats {
    pub runs: u64,
    pub time: Duration,
}

/// The programs of an agent, by hook.
pub struct ProgramStats(Vec<(&'static str, OwnedFd)>);

impl ProgramStats {
    pub(crate) const fn new(programs: Vec<(&'static str, OwnedFd)>) -> Self {
        Self(programs)
    }

    /// Those of programs that the kernel has counted a run of.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, RunStats)> + '_ {
        self.0.iter().filter_map(|(hook, program)| {
            let info =
                fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
            let stats = parse(&info)?;
            (stats.runs > 0).then_some((*hook, stats))
        })
    }
}

/// Reads what `bpf_prog_show_fdinfo` (`kernel/bpf/syscall.c`) writes.
fn parse(info: &str) -> Option<RunStats> {
    let field = |name: &str| -> Option<u64> {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(field, _)| *field == name);
        values.next()?.1.trim().parse().ok()
    };
    Some(RunStats { runs: field("run_cnt")?, time: Duration::from_nanos(field("run_time_ns")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_their_time_are_read_from_the_descriptor() {
        let info = "pos:\t0\nprog_type:\t18\nmemlock:\t8192\nrun_time_ns:\t4200\nrun_cnt:\t10\nrecursion_misses:\t0\n";
        let stats = RunStats { runs: 10, time: Duration::from_nanos(4200) };
        assert_eq!(parse(info), Some(stats));
        assert_eq!(parse("pos:\t0\n"), None, "no program");
    }
}
