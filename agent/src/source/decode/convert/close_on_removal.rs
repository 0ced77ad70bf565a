//! `sockline.dev/close-on-removal`: when TCP connections to a removed endpoint are closed.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations;
use crate::source::decode::validate::Validator;

/// The annotation.
const KEY: &str = annotations::CLOSE_ON_REMOVAL.name;
/// Maximum. A longer wait is as good as none.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of a wrong value that the message repeats.
const REPEATED: usize = 40;

/// What a Service's annotation says about connections to removed endpoints.
pub(super) fn of_service(validator: &mut Validator, metadata: &ObjectMeta) -> Option<Duration> {
    let value = metadata.annotations.as_ref()?.get(KEY)?;
    let duration = parse(value).filter(|duration| *duration <= LONGEST);
    if duration.is_none() {
        let start: String = value.chars().take(REPEATED).collect();
        validator.problem(
            format!("metadata.annotations[{KEY}]"),
            format!("{start:?} is not a duration of 0s to 24h like 30s or 1m30s; it is ignored"),
        );
    }
    duration
}

/// A duration as Kubernetes writes it (`metav1.Duration`, which is Go's `time.ParseDuration`), without
/// a sign: `30s`, `1m30s`, `1.5h`, `0`.
fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit_at);
        let next = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(next);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1m30s", 90.0),
            ("1.5h", 5400.0),
            ("1h0.5m", 3630.0),
            ("500ms", 0.5),
            ("1.s", 1.0),
            (".5s", 0.5),
            ("0", 0.0),
            ("0s", 0.0),
        ] {
            let expected = Duration::try_from_secs_f64(seconds).ok();
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in ["", "30", "s", "-1s", "+1s", "1 s", "1m30", "1d", ".s", "1..5s", "1e3s", "nan"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&format!("{}s", "9".repeat(400))), None);
    }
}
