//! Pinned objects in a bpffs: opening them, pinning them again, detaching links.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::error::BpfError;
use super::syscall::{self, CgroupLink};

/// Opens a pinned link; `None` if the path has none or is something else.
pub fn open_link(path: &Path) -> Result<Option<(OwnedFd, CgroupLink)>, BpfError> {
    let failed = |error| BpfError::io(format!("open the link {}", path.display()), error);
    let link = match syscall::open_pinned(path) {
        Ok(link) => link,
        Err(error) if is_not_there(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match syscall::link_info(link.as_fd()) {
        Ok(info) => Ok(Some((link, info))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The kernel's id of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    Map(u32),
    Link(u32),
}

impl Id {
    fn is_of(self, object: BorrowedFd<'_>) -> bool {
        match self {
            Self::Map(id) => syscall::map_id(object).is_ok_and(|found| found == id),
            Self::Link(id) => syscall::link_info(object).is_ok_and(|found| found.id == id),
        }
    }
}

/// Pins an object again if its pin is missing or is another object's. Returns whether it was.
pub fn ensure(object: BorrowedFd<'_>, id: Id, path: &Path) -> Result<bool, BpfError> {
    match syscall::open_pinned(path) {
        Ok(found) if id.is_of(found.as_fd()) => return Ok(false),
        Ok(_) => {}
        Err(error) if is_not_there(&error) => {}
        Err(error) => {
            return Err(BpfError::io(format!("open the pin {}", path.display()), error));
        }
    }
    pin_over(object, path).map(|()| true)
}

/// Nothing at the path, or what cannot be opened as a pin (`bpf_obj_get_user`: EACCES for anything
/// but a pinned object).
fn is_not_there(error: &io::Error) -> bool {
    matches!(syscall::os_error(error), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES))
}

/// Pins an object at a path, replacing what is there. There is no moment without a pin: the new one is made beside
/// the old one and renamed over it.
pub fn pin_over(object: BorrowedFd<'_>, path: &Path) -> Result<(), BpfError> {
    let failed = |error| BpfError::io(format!("pin {}", path.display()), error);
    // bpffs refuses names with a dot.
    let mut beside = path.as_os_str().to_owned();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    syscall::pin(object, &beside).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// Detaches the program of a pinned link, unless it is one of these.
pub fn detach(path: &Path, but: &[u32]) {
    if let Ok(Some((link, info))) = open_link(path)
        && !but.contains(&info.id)
    {
        let _ = syscall::link_detach(link.as_fd());
    }
}
