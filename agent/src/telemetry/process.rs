//! The agent's process as metrics, by the names that all clients of Prometheus have. Read at each scrape; what
//! cannot be read has no series.
//!
//! Not the collector of the `prometheus` crate, which counts CPU time in whole seconds.

use procfs::process::{LimitValue, Process};

use super::definitions::Families;

/// Writes the families.
pub fn write(families: &Families, text: &mut String) {
    let one = |value: Option<f64>| value.map(|value| ((), value));
    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        let start = procfs::boot_time_secs().ok().map(|boot| {
            // Seconds since the boot, in ticks.
            boot as f64 + stat.starttime as f64 / ticks
        });
        families.process_cpu_seconds.write([((), cpu)], text);
        families.process_start_time.write(one(start), text);
        families.process_threads.write([((), stat.num_threads as f64)], text);
        families.process_virtual_memory.write([((), stat.vsize as f64)], text);
        let resident = stat.rss as f64 * procfs::page_size() as f64;
        families.process_resident_memory.write([((), resident)], text);
    }
    let open = process.fd_count().ok().map(|count| count as f64);
    families.process_open_fds.write(one(open), text);
    let maximum = process.limits().ok().map(|limits| match limits.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(maximum) => maximum as f64,
    });
    families.process_max_fds.write(one(maximum), text);
}
