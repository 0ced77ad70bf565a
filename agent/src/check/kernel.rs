//! The version and the features of the running kernel.

use sockline_ebpf::agent::{
    COMPARE_AND_SWAP, KERNEL_SOCKETS, MPTCP_SOCK, NETNS_COOKIE, SET_RETVAL, SOCK_DESTROY,
};

use super::CheckResult;
use crate::dataplane::AgentRecord;

/// The oldest kernel that the programs load on.
const OLDEST: (u32, u32) = (5, 10);

/// The consequence of each missing optional feature, and the first kernel that has it.
const FEATURES: [(u32, &str); 6] = [
    (COMPARE_AND_SWAP, "sockets are in a hash (Linux 5.12 has compare-and-swap)"),
    (
        KERNEL_SOCKETS,
        "TCP sockets are in socket storage, and none is closed on removal of its backend (needs \
         /sys/kernel/btf/vmlinux and CAP_PERFMON)",
    ),
    (NETNS_COOKIE, "loopback NodePorts are the initial network namespace's (Linux 5.14)"),
    (SET_RETVAL, "refusals are EPERM (Linux 5.18 has bpf_set_retval)"),
    (SOCK_DESTROY, "no sockets are closed over netlink (CONFIG_INET_DIAG_DESTROY)"),
    (MPTCP_SOCK, "the peer name of MPTCP sockets is the backend's (Linux 6.0 with BTF)"),
];

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
fn features(bits: u32) -> CheckResult {
    let without: Vec<&str> = FEATURES
        .into_iter()
        .filter(|(bit, _)| bits & bit == 0)
        .map(|(_, consequence)| consequence)
        .collect();
    CheckResult::ok(
        "kernel.features",
        if without.is_empty() { "all that are made use of".into() } else { without.join(", ") },
    )
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
        let detail = features(!SET_RETVAL).detail;
        assert_eq!(detail, "refusals are EPERM (Linux 5.18 has bpf_set_retval)");
    }
}
