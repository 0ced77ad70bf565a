//! What the agent may do; while it is down, what it could do if it was started as this process is.

use std::{fs, path::PathBuf};

use super::{CheckResult, Node, kernel};

/// Number (`include/uapi/linux/capability.h`), name, and what for.
const NEEDED: [Capability; 3] = [
    (12, "CAP_NET_ADMIN", "load programs for the network and attach them"),
    (39, "CAP_BPF", "load programs and make maps"),
    (38, "CAP_PERFMON", "load programs that reckon with pointers"),
];
/// The first of them are what an agent keeps when it has started.
const KEPT: usize = 2;
/// Stands for CAP_PERFMON and CAP_BPF as well, which were a part of it before Linux 5.8
/// (`bpf_capable`, `perfmon_capable`).
const SYS_ADMIN: u32 = 21;
const FOR_LOCKED_MEMORY: Capability =
    (24, "CAP_SYS_RESOURCE", "raise the limit of locked memory, which maps count against");

type Capability = (u32, &'static str, &'static str);

pub fn check(node: &Node<'_>) -> Vec<CheckResult> {
    let of_agent = PathBuf::from(format!("/proc/{}", node.record.pid));
    // In another PID namespace, the id can be another process's.
    let is_agent =
        fs::read_to_string(of_agent.join("comm")).is_ok_and(|name| name.starts_with("sockline"));
    let (whose, folder) = if is_agent {
        ("the agent", of_agent)
    } else {
        ("this process (the agent's is not in sight)", PathBuf::from("/proc/self"))
    };
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let limits = fs::read_to_string(folder.join("limits")).unwrap_or_default();
    let has_started = is_agent && node.agent_runs;
    let mut needed = NEEDED[..if has_started { KEPT } else { NEEDED.len() }].to_vec();
    // Linux 5.10 counts maps against the limit, and any process may raise its soft limit to its hard
    // one: where that is unlimited, the DaemonSet's capabilities are enough.
    if !has_started && kernel::locks_memory() && !may_lock_all_memory(&limits) {
        needed.push(FOR_LOCKED_MEMORY);
    }
    vec![capabilities(whose, &status, &needed)]
}

/// Whether the hard limit of locked memory in a `/proc/PID/limits` is none.
fn may_lock_all_memory(limits: &str) -> bool {
    let locked = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    locked.and_then(|line| line.split_whitespace().nth(1)) == Some("unlimited")
}

fn capabilities(whose: &str, status: &str, needed: &[Capability]) -> CheckResult {
    let check = "permissions.capabilities";
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let Some(effective) = effective else {
        return CheckResult::warning(
            check,
            format!("cannot read those of {whose}"),
            "mount /proc where `sockline check` runs",
        );
    };
    let missing: Vec<String> = needed
        .iter()
        .filter(|(number, ..)| {
            let has = |number: u32| effective & 1 << number != 0;
            let is_part_of_sys_admin = matches!(number, 38 | 39);
            let may = has(*number) || (is_part_of_sys_admin && has(SYS_ADMIN));
            !may
        })
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        let all: Vec<&str> = needed.iter().map(|(_, name, _)| *name).collect();
        return CheckResult::ok(check, format!("{whose} has {}", all.join(", ")));
    }
    CheckResult::failed(
        check,
        format!("{whose} lacks {}", missing.join(", ")),
        if needed.contains(&FOR_LOCKED_MEMORY) {
            "run the agent as root and, in a pod, with the capabilities of deploy/base and \
             CAP_SYS_RESOURCE, or without a limit of locked memory"
        } else {
            "run the agent as root and, in a pod, with the capabilities of deploy/base"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn what_is_missing_is_named_with_its_purpose() {
        let all = capabilities("x", "Name:\tx\nCapEff:\t000001ffffffffff\n", &NEEDED);
        assert_eq!(all.state, State::Ok, "{all:?}");
        // As in deploy/base: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF; and as before Linux 5.8.
        for enough in ["CapEff:\t000000c000001000\n", "CapEff:\t0000000000201000\n"] {
            assert_eq!(capabilities("x", enough, &NEEDED).state, State::Ok, "{enough}");
        }
        // A container's default set.
        let few = capabilities("x", "CapEff:\t00000000a80425fb\n", &NEEDED);
        assert_eq!(few.state, State::Failed);
        assert!(few.message.contains("CAP_BPF (load programs and make maps)"), "{few:?}");
    }

    #[test]
    fn the_capability_that_deploy_does_not_give_is_named_in_what_to_do() {
        let needed = [&NEEDED[..], &[FOR_LOCKED_MEMORY]].concat();
        let seen = capabilities("x", "CapEff:\t000000c000001000\n", &needed);
        assert_eq!(seen.state, State::Failed);
        assert!(seen.message.starts_with("x lacks CAP_SYS_RESOURCE (raise the limit"), "{seen:?}");
        assert!(
            seen.remedy.as_ref().is_some_and(|remedy| remedy.contains("CAP_SYS_RESOURCE")),
            "{seen:?}"
        );
    }

    #[test]
    fn only_a_hard_limit_keeps_a_process_from_locking_memory() {
        // The columns are the soft and the hard limit.
        for (limits, may) in [
            ("Max locked memory         unlimited            unlimited            bytes", true),
            ("Max locked memory         65536                unlimited            bytes", true),
            ("Max locked memory         8388608              8388608              bytes", false),
            ("Max address space         unlimited            unlimited            bytes", false),
            ("", false),
        ] {
            assert_eq!(may_lock_all_memory(limits), may, "{limits}");
        }
    }
}
