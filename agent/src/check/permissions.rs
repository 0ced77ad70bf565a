//! What the agent may do; while it is down, what it could do if it was started as this process is.

use std::{fs, path::PathBuf};

use super::Finding;
use crate::dataplane::view::AgentRecord;

/// Number (`include/uapi/linux/capability.h`), name, and what for.
const NEEDED: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "load programs for the network and attach them"),
    (21, "CAP_SYS_ADMIN", "read attached programs, mount the BPF file system"),
    (24, "CAP_SYS_RESOURCE", "lock memory for maps before Linux 5.11"),
    (39, "CAP_BPF", "load programs and make maps"),
];

pub fn check(record: &AgentRecord) -> Vec<Finding> {
    let of_agent = PathBuf::from(format!("/proc/{}", record.pid));
    // In another process namespace, the number can be anybody's.
    let is_agent = fs::read_to_string(of_agent.join("comm")).is_ok_and(|name| name == "sockline\n");
    let (whose, folder) = if is_agent {
        ("the agent", of_agent)
    } else {
        ("this process (the agent's is not in sight)", PathBuf::from("/proc/self"))
    };
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    vec![capabilities(whose, &status)]
}

fn capabilities(whose: &str, status: &str) -> Finding {
    let check = "permissions.capabilities";
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let Some(effective) = effective else {
        return Finding::warning(
            check,
            format!("cannot read those of {whose}"),
            "mount /proc where `sockline check` runs",
        );
    };
    let missing: Vec<String> = NEEDED
        .into_iter()
        .filter(|(number, ..)| effective & 1 << number == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        let all: Vec<&str> = NEEDED.into_iter().map(|(_, name, _)| name).collect();
        return Finding::ok(check, format!("{whose} has {}", all.join(", ")));
    }
    Finding::failed(
        check,
        format!("{whose} lacks {}", missing.join(", ")),
        "run the agent as root and, in a pod, as privileged",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn what_is_missing_is_named_with_its_purpose() {
        let all = capabilities("x", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(all.state, State::Ok, "{all:?}");
        // A container's default set.
        let few = capabilities("x", "CapEff:\t00000000a80425fb\n");
        assert_eq!(few.state, State::Failed);
        assert!(few.detail.contains("CAP_BPF (load programs and make maps)"), "{few:?}");
    }
}
