//! Names that say which process a leftover belongs to, so that the next run can remove it.

use std::{
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
