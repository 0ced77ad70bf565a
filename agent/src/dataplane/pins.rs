//! The directory in bpffs that keeps the kernel state over restarts.
//!
//! ```text
//! BPFFS/sockline/v1/maps/NAME       the maps
//! BPFFS/sockline/v1/maps/inner/ID   the maps in those that hold maps
//! BPFFS/sockline/v1/links/PROGRAM   the attachments
//! ```
//!
//! `v1` is the layout version: agents of different layouts have nothing to do with each other's
//! maps, but a newer one takes over the links of an older one.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg, OFlag};
use sockline_ebpf::LAYOUT_VERSION;

use super::{error::DataplaneError, private, sys};

#[derive(Debug, Clone)]
pub struct Pins {
    /// `BPFFS/sockline`
    root: PathBuf,
}

/// Proof of being the only agent on a pin directory; the kernel takes it back when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<OwnedFd>,
}

impl Pins {
    #[must_use]
    pub fn in_bpffs(bpffs: &Path) -> Self {
        Self { root: bpffs.join("sockline") }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.directory().join("maps")
    }

    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    #[must_use]
    pub fn inner_maps(&self) -> PathBuf {
        self.maps().join("inner")
    }

    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.directory().join("links")
    }

    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Makes the directories.
    pub fn create(&self) -> Result<(), DataplaneError> {
        for directory in [self.inner_maps(), self.links()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(
                |error| {
                    DataplaneError::io(format!("make the folder {}", directory.display()), error)
                },
            )?;
        }
        private::tighten(&self.root).map_err(|error| {
            DataplaneError::io(format!("keep others out of {}", self.root.display()), error)
        })
    }

    /// Takes the lock; `None` if somebody has it.
    pub fn lock(&self) -> Result<Option<Lock>, DataplaneError> {
        let failed = |error: io::Error| {
            DataplaneError::io(format!("lock the folder {}", self.root.display()), error)
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(&self.root, flags, nix::sys::stat::Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Lock { _directory: lock })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Takes the lock, and tries again for a while if somebody has it. Blocks the thread.
    pub fn lock_within(&self, patience: Duration) -> Result<Option<Lock>, DataplaneError> {
        let deadline = Instant::now() + patience;
        loop {
            let lock = self.lock()?;
            if lock.is_some() || Instant::now() >= deadline {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The directories of other layout versions.
    pub fn others(&self) -> Vec<PathBuf> {
        let own = self.directory();
        fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && *path != own)
            .collect()
    }

    /// Removes everything, which detaches the programs and frees the maps. Returns what was there.
    pub fn remove(&self) -> Result<Vec<PathBuf>, DataplaneError> {
        let mut removed = Vec::new();
        for directory in std::iter::once(self.directory()).chain(self.others()) {
            detach_all(&directory.join("links"));
        }
        remove_tree(&self.root, &mut removed).map_err(|error| {
            DataplaneError::io(format!("remove {}", self.root.display()), error)
        })?;
        Ok(removed)
    }
}

/// Detaches the programs of all links in a directory: once this is done, none of them is called any
/// more. What cannot be detached is left to the removal of its pin, which has the same effect later.
fn detach_all(links: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        if let Ok(Some(link)) = open_link(&entry.path()) {
            let _ = sys::link_detach(link.as_fd());
        }
    }
}

/// Removes a directory of pins; links first, so that no program runs on maps that are gone.
pub fn remove_tree(path: &Path, removed: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> = match fs::read_dir(path) {
        Ok(entries) => entries.collect::<Result<_, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), removed)?;
        } else {
            fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    fs::remove_dir(path)
}

/// Opens a pinned link; `None` if there is none.
pub fn open_link(path: &Path) -> Result<Option<OwnedFd>, DataplaneError> {
    match sys::open_pinned(path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataplaneError::io(format!("open the link {}", path.display()), error)),
    }
}

/// Pins a link where there is none, or in place of one that is no good any more. There is no
/// moment without a pin: the new one is made beside the old and renamed over it.
pub fn pin_link(link: &OwnedFd, path: &Path) -> Result<(), DataplaneError> {
    let failed = |error| DataplaneError::io(format!("pin the link {}", path.display()), error);
    // bpffs refuses names with a dot.
    let mut beside = path.as_os_str().to_owned();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    sys::pin(link.as_fd(), &beside).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}
