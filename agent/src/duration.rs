//! Durations as Go writes them, which is how Kubernetes' options, objects and commands have them.

use std::time::Duration;

use jiff::Timestamp;

/// Characters of a duration: enough for every unit of Go, and few enough that no sum is too large.
const MAX_CHARACTERS: usize = 16;

/// Reads a duration such as `90s`, `1.5h` or `2h45m`, as Go's `time.ParseDuration` does; no signs.
///
/// # Errors
/// When it is something else; the message has examples.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 5m or 1h30m");
    // kube's parser panics where a part is too large or has a sign, and takes an empty text for 0.
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c.is_alphabetic();
    if text.is_empty() || text.chars().count() > MAX_CHARACTERS || !text.chars().all(is_part) {
        return Err(wrong());
    }
    text.parse::<kube::core::Duration>().map(Into::into).map_err(|_| wrong())
}

/// Writes a duration as Go's `Duration.String` does: `1h30m0s`, `12s`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn format(duration: Duration) -> String {
    if duration < Duration::from_secs(1) && !duration.is_zero() {
        // `250ms`, `1.5µs`: both languages write parts of a second the same way.
        return format!("{duration:?}");
    }
    let minutes = duration.as_secs() / 60;
    let seconds = Duration::new(duration.as_secs() % 60, duration.subsec_nanos());
    let seconds = if seconds < Duration::from_secs(1) {
        fraction_of_a_second(seconds)
    } else {
        format!("{seconds:?}")
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// Behind minutes, also a part of a second is in seconds.
fn fraction_of_a_second(duration: Duration) -> String {
    let digits = format!("0.{:09}", duration.subsec_nanos());
    format!("{}s", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// As [`format()`], in whole seconds: for people.
#[must_use]
pub fn format_seconds(duration: Duration) -> String {
    format(Duration::from_secs(duration.as_secs()))
}

/// How long ago, for people.
#[must_use]
pub fn format_age(then: Timestamp) -> String {
    let age: Result<Duration, _> = Timestamp::now().duration_since(then).try_into();
    // The clock may have been set back.
    format_seconds(age.unwrap_or_default())
}

/// The schema of a duration in JSON, for `#[schemars(with = "…")]`.
#[derive(Debug)]
pub struct Text;

impl schemars::JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "duration-as-in-go" })
    }
}

/// For `#[serde(with = "…")]`.
pub mod as_text {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&super::format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| super::parse(&text).map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("1h0.5m", 3_630_000),
            ("250ms", 250),
            (".5s", 500),
            ("1.s", 1_000),
            ("2h45m0.5s", 9_900_500),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse("2µs"), Ok(Duration::from_micros(2)));
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in [
            "", "5", "5 m", "-5m", "+5m", "5m-3s", "5m+3s", "m", "1d", ".s", "5m3", "1e3s", "NaNs",
            "infs", "1..5s",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, format!("{text:?} is not a duration such as 90s, 5m or 1h30m"));
        }
    }

    /// kube's parser panics at what does not fit.
    #[test]
    fn what_is_too_large_is_an_error() {
        for digits in [13, 14, 15, 16, 20, 400] {
            let _ = parse(&format!("{}h", "9".repeat(digits)));
            let _ = parse(&format!("{}s", "9".repeat(digits)));
        }
        assert!(parse(&format!("{}h", "9".repeat(15))).is_ok());
        assert!(parse(&format!("{}h", "9".repeat(16))).is_err());
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (60_500_000_000, "1m0.5s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (90_000_000_000_000, "25h0m0s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for milliseconds in [0, 1, 999, 1_000, 59_999, 60_000, 3_600_000, 86_399_999] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
