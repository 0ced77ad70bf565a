//! The clock of the kernel programs.

use std::sync::LazyLock;

/// `CLOCK_MONOTONIC`, as programs see it (`bpf_ktime_get_ns`): they know nothing of time namespaces
/// (Linux 5.6), in which a process sees another one.
pub fn monotonic_nanoseconds() -> u64 {
    static OFFSET: LazyLock<i64> = LazyLock::new(|| {
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_offset(&offsets)
    });
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a pointer to a local; this clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let now = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0);
    now.wrapping_add_signed(-*OFFSET)
}

/// How many nanoseconds a time namespace's `CLOCK_MONOTONIC` is ahead, by its `timens_offsets`
/// (time_namespaces(7)).
fn monotonic_offset(offsets: &str) -> i64 {
    let words = offsets.lines().map(str::split_whitespace);
    let numbers = words.filter_map(|mut words| {
        // By name, or by the clock's number as before Linux 5.8.
        matches!(words.next(), Some("monotonic" | "1")).then(|| words.map_while(|n| n.parse().ok()))
    });
    let mut numbers = numbers.flatten();
    let (seconds, nanoseconds): (i64, i64) =
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_of_a_time_namespace_differs_from_the_kernels() {
        let ahead = "monotonic         86400        250\nboottime         1         0\n";
        assert_eq!(monotonic_offset(ahead), 86_400_000_000_250);
        assert_eq!(monotonic_offset("monotonic  -1  999999999\nboottime 0 0\n"), -1);
        assert_eq!(monotonic_offset(""), 0);
    }
}
