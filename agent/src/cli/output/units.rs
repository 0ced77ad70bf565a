//! Numbers with their units, as short as columns need them.

use sockline_ebpf::telemetry::{ROUND_TRIP_BUCKETS, round_trip_bound};

/// Round-trip times by bucket.
pub type RoundTrips = [u64; ROUND_TRIP_BUCKETS];

/// The bound of the bucket that a share of all round-trip times lies below, such as `<16µs`; `None` if there are none.
#[must_use]
pub fn round_trip(buckets: &RoundTrips, share: f64) -> Option<String> {
    Some(match quantile(buckets, share)? {
        // The last one has no upper bound.
        bucket if bucket + 1 == ROUND_TRIP_BUCKETS => {
            format!(">{}", duration(round_trip_bound(bucket - 1)))
        }
        bucket => format!("<{}", duration(round_trip_bound(bucket))),
    })
}

/// The bucket that has the value which this share of all values does not exceed; `None` if there are none.
#[must_use]
pub fn quantile(buckets: &RoundTrips, share: f64) -> Option<usize> {
    let total: u64 = buckets.iter().sum();
    let rank = (total as f64 * share).ceil() as u64;
    let mut below = 0;
    let bucket = buckets.iter().position(|count| {
        below += count;
        below >= rank
    })?;
    (total > 0).then_some(bucket)
}

fn duration(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0}µs", seconds * 1e6)
    } else {
        format!("{:.0}ms", seconds * 1e3)
    }
}

/// Bytes in the units of `ls -h`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if count < 1024 {
        return count.to_string();
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A number of events in a second, with three digits at least and a decimal unit: `0`, `0.5`, `12.3`, `450`, `1.2k`.
#[must_use]
pub fn rate(value: f64) -> String {
    if value <= 0.0 {
        "0".to_owned()
    } else if value < 0.1 {
        "<0.1".to_owned()
    } else if value < 99.95 {
        format!("{value:.1}")
    } else if value < 999.5 {
        format!("{value:.0}")
    } else {
        thousands(value)
    }
}

/// A count, as [`rate`] from 1,000 on: `999`, `1.2k`.
#[must_use]
pub fn count(value: u64) -> String {
    if value < 1000 { value.to_string() } else { thousands(value as f64) }
}

fn thousands(value: f64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    let mut value = value / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        assert_eq!(round_trip(&[0; 18], 0.5), None);
        let mut buckets = [0; 18];
        (buckets[1], buckets[3]) = (98, 2);
        assert_eq!([quantile(&buckets, 0.5), quantile(&buckets, 0.99)], [Some(1), Some(3)]);
        assert_eq!(round_trip(&buckets, 0.5).as_deref(), Some("<16µs"));
        (buckets[9], buckets[17]) = (900, 900);
        assert_eq!(round_trip(&buckets, 0.5).as_deref(), Some("<4ms"));
        assert_eq!(round_trip(&buckets, 0.99).as_deref(), Some(">524ms"));
    }

    #[test]
    fn bytes_have_a_unit_from_1024_on() {
        assert_eq!([0, 1023, 1024, 1536].map(bytes), ["0", "1023", "1.0K", "1.5K"]);
        assert_eq!(bytes(5_368_709_120), "5.0G");
    }

    #[test]
    fn rates_and_counts_are_at_most_six_characters_wide() {
        let rates = [0.0, 0.04, 0.5, 99.94, 99.96, 999.4, 999.6, 12_345.0, 999_990.0, 1.5e6];
        let texts = ["0", "<0.1", "0.5", "99.9", "100", "999", "1.0k", "12.3k", "1.0M", "1.5M"];
        assert_eq!(rates.map(rate), texts);
        assert_eq!([0, 999, 1000, 1_500_000].map(count), ["0", "999", "1.0k", "1.5M"]);
    }
}
