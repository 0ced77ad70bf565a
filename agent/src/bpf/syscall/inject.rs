//! Makes BPF system calls of this thread fail, for tests of what no test can make the kernel do.

use std::cell::RefCell;

use aya_obj::generated::bpf_cmd;

struct Injection {
    command: bpf_cmd,
    /// Calls of the command that succeed before.
    calls_before: u32,
    errno: i32,
}

thread_local! {
    static INJECTION: RefCell<Option<Injection>> = const { RefCell::new(None) };
}

/// The next call of this command after `calls_before` of them fails with this number, and no other.
pub fn fail_once(command: bpf_cmd, calls_before: u32, errno: i32) {
    INJECTION.set(Some(Injection { command, calls_before, errno }));
}

pub(super) fn take(command: bpf_cmd) -> Option<i32> {
    INJECTION.with_borrow_mut(|injection| {
        let planned = injection.as_mut().filter(|planned| planned.command == command)?;
        if planned.calls_before > 0 {
            planned.calls_before -= 1;
            return None;
        }
        injection.take().map(|due| due.errno)
    })
}
