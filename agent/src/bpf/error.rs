//! Errors of BPF system calls and of maps.

use std::io;

use aya::maps::MapError;

/// A map has no room. Affects only the service that did not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("map `{map}` is full: its limit is {limit} entries")]
pub struct Full {
    pub map: &'static str,
    pub limit: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("the kernel has no memory for map `{map}`")]
    NoMemory { map: &'static str },
    #[error("cannot {action} map `{map}`")]
    Map { map: &'static str, action: &'static str, source: Box<MapError> },
    #[error("cannot {action}")]
    Io { action: String, source: io::Error },
    #[error("{0}")]
    Unsupported(String),
}

impl BpfError {
    pub fn map(map: &'static str, action: &'static str, error: MapError) -> Self {
        if is_out_of_memory(&error) {
            return Self::NoMemory { map };
        }
        Self::Map { map, action, source: Box::new(error) }
    }

    /// A write to a map that may have `limit` entries failed: perhaps because it is full.
    pub fn write(map: &'static str, limit: u32, error: MapError) -> Self {
        if os_error(&error) == Some(libc::E2BIG) {
            Full { map, limit }.into()
        } else {
            Self::map(map, "write", error)
        }
    }

    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }

    /// Whether only room is missing: the same call may succeed later.
    pub const fn is_out_of_room(&self) -> bool {
        matches!(self, Self::Full(_) | Self::NoMemory { .. })
    }
}

pub fn is_out_of_memory(error: &MapError) -> bool {
    os_error(error) == Some(libc::ENOMEM)
}

/// The kernel's error number.
fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::CreateError { io_error, .. } => io_error.raw_os_error(),
        _ => None,
    }
}
