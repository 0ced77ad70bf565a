//! Names that identify the process that a leftover belongs to, so that the next run can remove it.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

const PREFIX: &str = "sockline-tests-";

/// `sockline-tests-<pid>`: this process's name in a folder shared with other test processes.
pub(crate) fn process_name() -> String {
    format!("{PREFIX}{}", process::id())
}

/// A number no other node of this process has.
pub(crate) fn next_node() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether a name was made here by a process that is gone.
pub(crate) fn is_stale(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes the folders of test processes that were killed before they could clean up.
pub(crate) fn remove_stale_folders(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_stale)
            && let Err(error) = fs::remove_dir_all(entry.path())
            // Another test process has removed it.
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("testbed: removing stale {}: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_made_here_is_stale() {
        assert!(!is_stale(&process_name()));
        assert!(!is_stale(&format!("{}-0-AbC", process_name())));
        // Above the kernel's largest process id.
        assert!(is_stale("sockline-tests-4194305"));
        assert!(is_stale("sockline-tests-4194305-3"));
        assert!(!is_stale("sockline-testbed.lock"));
        assert!(!is_stale("sockline"));
    }
}
