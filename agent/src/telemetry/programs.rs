//! The programs' runs as metrics, read at each scrape.

use super::definitions::{Families, ProgramLabels};
use crate::dataplane::ProgramStats;

/// Writes the families.
pub fn write(stats: &ProgramStats, families: &Families, text: &mut String) {
    let read: Vec<_> =
        stats.read().map(|(program, stats)| (ProgramLabels { program }, stats)).collect();
    let runs = read.iter().map(|(labels, stats)| (labels.clone(), stats.runs as f64));
    families.bpf_program_runs.write(runs, text);
    let time = read.iter().map(|(labels, stats)| (labels.clone(), stats.time.as_secs_f64()));
    families.bpf_program_run_time.write(time, text);
}
