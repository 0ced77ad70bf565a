//! The version and the features of the running kernel.

use super::CheckResult;
use crate::dataplane::{AgentRecord, FeatureSet, missing_features};

/// The oldest kernel that the programs load on.
const OLDEST: (u32, u32) = (5, 10);

pub fn check(record: &AgentRecord) -> Vec<CheckResult> {
    vec![version(&release()), features(record.features)]
}

/// Whether maps count against the limit of locked memory, as before Linux 5.11.
pub fn locks_memory() -> bool {
    numbers(&release()).is_some_and(|version| version < (5, 11))
}

fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn version(release: &str) -> CheckResult {
    let check = "kernel.version";
    let Some(version) = numbers(release) else {
        return CheckResult::warning(
            check,
            format!("{release:?} is not a version"),
            "look at /proc/sys/kernel/osrelease",
        );
    };
    if version < OLDEST {
        return CheckResult::failed(
            check,
            format!("Linux {release}"),
            format!("Sockline needs Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        );
    }
    CheckResult::ok(check, format!("Linux {release}"))
}

/// A missing feature is no failure: it only has the named consequence.
fn features(found: FeatureSet) -> CheckResult {
    let without: Vec<String> = missing_features(found)
        .map(|(feature, consequence)| format!("without {}: {consequence}", feature.what))
        .collect();
    let message = if without.is_empty() { "all that are used".into() } else { without.join("; ") };
    CheckResult::ok("kernel.features", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn versions_are_compared_by_number() {
        for (release, state) in [
            ("5.10.0-30-amd64", State::Ok),
            ("6.1", State::Ok),
            ("5.9.16", State::Failed),
            ("4.19.0", State::Failed),
            ("custom", State::Warning),
        ] {
            assert_eq!(version(release).state, state, "{release}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_consequence() {
        let message = features(FeatureSet::all() - FeatureSet::SET_RETVAL).message;
        assert_eq!(
            message,
            "without bpf_set_retval (Linux 5.18): refusals are EPERM instead of ECONNREFUSED"
        );
    }
}
