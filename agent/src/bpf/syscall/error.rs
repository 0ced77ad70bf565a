//! The error of a BPF system call.

use std::{fmt, io};

use aya_obj::generated::bpf_cmd;

/// A BPF system call that failed: its text begins with the command. [`os_error`] reads the number.
#[derive(Debug)]
struct FailedCall {
    command: bpf_cmd,
    error: io::Error,
}

impl fmt::Display for FailedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.command, self.error)
    }
}

// The text has the cause, so it is not the source as well.
impl std::error::Error for FailedCall {}

pub(super) fn failed(command: bpf_cmd, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), FailedCall { command, error })
}

/// The kernel's error number, also of an error of this folder.
pub fn os_error(error: &io::Error) -> Option<i32> {
    let call = || error.get_ref()?.downcast_ref::<FailedCall>()?.error.raw_os_error();
    error.raw_os_error().or_else(call)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bpf::syscall::open_pinned;

    #[test]
    fn an_error_names_its_call_and_keeps_its_number_and_kind() {
        let error = open_pinned(Path::new("/nowhere/at-all")).unwrap_err();
        assert!(error.to_string().starts_with("BPF_OBJ_GET: No such file"), "{error}");
        assert_eq!(os_error(&error), Some(libc::ENOENT));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
