//! Options and variables of version 0.1 that were renamed. Using an old name is an error that names the new one.

use std::ffi::OsStr;

/// The old name and the new one.
const OPTIONS: [(&str, &str); 9] = [
    ("--listen", "--metrics-bind-address"),
    ("--bpffs", "--bpf-root"),
    ("--cgroup", "--cgroup-root"),
    ("--log", "--log-level"),
    ("--log-json", "--log-format json"),
    ("--repair-interval", "--reconcile-interval (such as 60s)"),
    ("--leave-alone-namespaces", "--exclude-namespaces"),
    ("--leave-alone-pods", "--exclude-pod-selector"),
    ("--node", "--node-name"),
];

const VARIABLES: [(&str, &str); 8] = [
    ("SOCKLINE_LISTEN", "SOCKLINE_METRICS_BIND_ADDRESS"),
    ("SOCKLINE_BPFFS", "SOCKLINE_BPF_ROOT"),
    ("SOCKLINE_CGROUP", "SOCKLINE_CGROUP_ROOT"),
    ("SOCKLINE_LOG", "SOCKLINE_LOG_LEVEL"),
    ("SOCKLINE_LOG_JSON", "SOCKLINE_LOG_FORMAT=json"),
    ("SOCKLINE_REPAIR_INTERVAL", "SOCKLINE_RECONCILE_INTERVAL (such as 60s)"),
    ("SOCKLINE_LEAVE_ALONE_NAMESPACES", "SOCKLINE_EXCLUDE_NAMESPACES"),
    ("SOCKLINE_LEAVE_ALONE_PODS", "SOCKLINE_EXCLUDE_POD_SELECTOR"),
];

/// The error for the first option or variable with an old name. An empty variable counts as not set.
#[must_use]
pub fn find<'a>(
    mut arguments: impl Iterator<Item = &'a OsStr>,
    is_set: impl Fn(&str) -> bool,
) -> Option<String> {
    let option = arguments.find_map(|argument| {
        let name = argument.to_str()?.split('=').next()?;
        OPTIONS.iter().find(|(before, _)| *before == name)
    });
    let variable = || VARIABLES.iter().find(|(before, _)| is_set(before));
    let (kind, (before, now)) = match option {
        Some(names) => ("option", names),
        None => ("variable", variable()?),
    };
    Some(format!("the {kind} {before} of an earlier build was renamed to {now}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arguments: &[&str], variable: &str) -> Option<String> {
        find(arguments.iter().map(OsStr::new), |name| name == variable)
    }

    #[test]
    fn an_old_name_is_an_error_that_names_the_new_one() {
        assert_eq!(
            found(&["agent", "--listen=127.0.0.1:1"], ""),
            Some(
                "the option --listen of an earlier build was renamed to --metrics-bind-address"
                    .into()
            )
        );
        assert_eq!(
            found(&["agent"], "SOCKLINE_BPFFS"),
            Some(
                "the variable SOCKLINE_BPFFS of an earlier build was renamed to SOCKLINE_BPF_ROOT"
                    .into()
            )
        );
    }

    #[test]
    fn new_names_and_values_are_none() {
        let arguments = ["agent", "--log-level", "info", "--cgroup-root", "/x", "--node-name", "n"];
        assert_eq!(found(&arguments, "SOCKLINE_CGROUP_ROOT"), None);
    }
}
