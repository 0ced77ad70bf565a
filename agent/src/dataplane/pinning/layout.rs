//! The directory in bpffs that keeps the kernel state over restarts.
//!
//! ```text
//! BPFFS/sockline/v2/maps/NAME       the maps
//! BPFFS/sockline/v2/maps/inner/ID   the maps in those that hold maps
//! BPFFS/sockline/v2/links/HOOK      the attachments
//! BPFFS/sockline/removed_v1         what is being removed
//! ```
//!
//! `v2` is the layout version: agents of different layouts have nothing to do with each other's
//! maps, but a newer one takes over the links of an older one.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sys::stat::{FileStat, fstat, major, minor},
};
use sockline_ebpf::LAYOUT_VERSION;

use super::permissions;
use crate::{
    bpf::{
        kinds::array_of_maps,
        syscall::{self, CgroupLink},
    },
    dataplane::error::DataplaneError,
};

#[derive(Debug, Clone)]
pub struct Pins {
    /// `BPFFS/sockline`
    root: PathBuf,
}

/// How long a writer waits for readers, which have the lock for microseconds.
pub const READERS_PATIENCE: Duration = Duration::from_millis(200);

/// Proof of being the only agent on a pin directory; the kernel takes it back when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    directory: Flock<OwnedFd>,
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
        self.maps().join(array_of_maps::FOLDER)
    }

    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.directory().join("links")
    }

    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Makes the directory that all layouts share, and that the lock is on.
    pub fn create_root(&self) -> Result<(), DataplaneError> {
        make(&self.root)
    }

    /// Makes the directories of this layout.
    pub fn create(&self) -> Result<(), DataplaneError> {
        make(&self.inner_maps())?;
        make(&self.links())
    }

    /// Takes from everybody else what they could open of the pins.
    pub fn close_to_others(&self) -> Result<(), DataplaneError> {
        permissions::tighten(&self.root).map_err(|error| {
            DataplaneError::io(format!("keep others out of {}", self.root.display()), error)
        })
    }

    /// Takes the lock; `None` if somebody has it.
    pub fn lock(&self) -> Result<Option<Lock>, DataplaneError> {
        self.lock_as(FlockArg::LockExclusiveNonblock)
    }

    /// Whether an agent, or whoever else writes, has the lock. Readers that ask at the same time do not
    /// see each other.
    pub fn are_locked(&self) -> Result<bool, DataplaneError> {
        Ok(self.lock_as(FlockArg::LockSharedNonblock)?.is_none())
    }

    fn lock_as(&self, kind: FlockArg) -> Result<Option<Lock>, DataplaneError> {
        let failed = |error: io::Error| {
            DataplaneError::io(format!("lock the folder {}", self.root.display()), error)
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(&self.root, flags, nix::sys::stat::Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        match Flock::lock(directory, kind) {
            Ok(directory) => {
                let lock = Lock { directory };
                // Whoever had it before may have removed the directory, which is not the one then that
                // others will lock.
                if self.are_locked_by(&lock) { Ok(Some(lock)) } else { self.lock_as(kind) }
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Makes the directory if need be and takes the lock; tries again for a while if somebody has it.
    /// Blocks the thread.
    pub fn lock_within(&self, patience: Duration) -> Result<Option<Lock>, DataplaneError> {
        let deadline = Instant::now() + patience;
        loop {
            self.create_root()?;
            match self.lock() {
                Ok(None) if Instant::now() < deadline => {}
                // Removed in this very moment.
                Err(DataplaneError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {}
                result => return result,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a lock is on the directory that is there now: not if that was removed since, or is
    /// covered by another file system.
    #[must_use]
    pub fn are_locked_by(&self, lock: &Lock) -> bool {
        let id = |stat: FileStat| (stat.st_dev, stat.st_ino);
        let there = nix::sys::stat::stat(&self.root).map(id);
        there.is_ok_and(|there| fstat(&*lock.directory).map(id) == Ok(there))
    }

    /// The process that has the lock, as far as it can be seen from here (proc_locks(5)).
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        let root = nix::sys::stat::stat(&self.root).ok()?;
        let (major, minor) = (major(root.st_dev), minor(root.st_dev));
        let file = format!("{major:02x}:{minor:02x}:{}", root.st_ino);
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            // `1: FLOCK  ADVISORY  WRITE 1629 00:27:1380918 0 EOF`
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", pid, locked, ..] = words[..] else { return None };
            if locked == file { pid.parse().ok() } else { None }
        })
    }

    /// The directories of other layout versions.
    pub fn others(&self) -> Vec<PathBuf> {
        let own = self.directory();
        let mut others = self.directories();
        others.retain(|path| *path != own && !is_removed(path));
        others
    }

    fn directories(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }

    /// Removes the directory of another layout version. The first step makes it nobody's: whoever is
    /// killed in the middle leaves nothing that an agent of that layout would take over.
    pub fn remove_other(&self, other: &Path) -> Result<(), DataplaneError> {
        self.retire(other)
            .map_err(|error| DataplaneError::io(format!("remove {}", other.display()), error))?;
        self.finish_removal()
    }

    /// Removes what an agent was removing when it ended. Detaches nothing: the links in there may be
    /// pinned in this layout's directory as well, having been taken over.
    pub fn finish_removal(&self) -> Result<(), DataplaneError> {
        for removed in self.directories().into_iter().filter(|path| is_removed(path)) {
            remove_tree(&removed, &mut Vec::new()).map_err(|error| {
                DataplaneError::io(format!("remove {}", removed.display()), error)
            })?;
        }
        Ok(())
    }

    fn retire(&self, directory: &Path) -> io::Result<()> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        fs::rename(directory, self.root.join(format!("{REMOVED}{name}")))
    }

    /// Whether there are attachments in a directory of this layout version.
    #[must_use]
    pub fn have_links(&self) -> bool {
        has_entries(&self.links())
    }

    /// Whether there are attachments in a directory of another layout version.
    #[must_use]
    pub fn others_have_links(&self) -> bool {
        self.others().iter().any(|other| has_entries(&other.join("links")))
    }

    /// Removes everything, which detaches the programs and frees the maps. Returns what was there.
    pub fn remove(&self) -> Result<Vec<PathBuf>, DataplaneError> {
        let mut removed = Vec::new();
        for directory in self.directories() {
            detach_all(&directory.join("links"));
        }
        self.finish_removal()?;
        for directory in self.directories() {
            self.retire(&directory).map_err(|error| {
                DataplaneError::io(format!("remove {}", directory.display()), error)
            })?;
        }
        remove_tree(&self.root, &mut removed).map_err(|error| {
            DataplaneError::io(format!("remove {}", self.root.display()), error)
        })?;
        Ok(removed)
    }
}

/// What the name of a directory begins with that is being removed.
const REMOVED: &str = "removed_";

fn is_removed(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(REMOVED))
}

fn make(directory: &Path) -> Result<(), DataplaneError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        DataplaneError::io(format!("make the folder {}", directory.display()), error)
    })
}

fn has_entries(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Detaches the programs of all links in a directory: once this is done, none of them is called any
/// more. What cannot be detached is left to the removal of its pin, which has the same effect later.
fn detach_all(links: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        detach(&entry.path(), &[]);
    }
}

/// Detaches the program of a pinned link, unless it is one of these.
pub fn detach(path: &Path, but: &[u32]) {
    if let Ok(Some((link, info))) = open_link(path)
        && !but.contains(&info.id)
    {
        let _ = syscall::link_detach(link.as_fd());
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

/// Opens a pinned link; `None` if there is none, or something else in its place.
pub fn open_link(path: &Path) -> Result<Option<(OwnedFd, CgroupLink)>, DataplaneError> {
    let failed = |error| DataplaneError::io(format!("open the link {}", path.display()), error);
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

/// Pins an object that may have lost its pin, or had something else pinned in place of it. Returns
/// whether it had.
pub fn ensure(object: BorrowedFd<'_>, id: Id, path: &Path) -> Result<bool, DataplaneError> {
    match syscall::open_pinned(path) {
        Ok(found) if id.is_of(found.as_fd()) => return Ok(false),
        Ok(_) => {}
        Err(error) if is_not_there(&error) => {}
        Err(error) => {
            return Err(DataplaneError::io(format!("open the pin {}", path.display()), error));
        }
    }
    pin_over(object, path).map(|()| true)
}

/// Nothing at the path, or what cannot be opened as a pin (`bpf_obj_get_user`: EACCES for anything
/// but a pinned object).
fn is_not_there(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES))
}

/// Pins an object where nothing is, or in place of what is no good any more. There is no moment
/// without a pin: the new one is made beside the old and renamed over it.
pub fn pin_over(object: BorrowedFd<'_>, path: &Path) -> Result<(), DataplaneError> {
    let failed = |error| DataplaneError::io(format!("pin {}", path.display()), error);
    // bpffs refuses names with a dot.
    let mut beside = path.as_os_str().to_owned();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    syscall::pin(object, &beside).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// Removes what is in a directory of pins and has none of these names: an agent was killed between
/// two steps, or was of a build that pins more. Programs of links there are detached at once.
///
/// Links of these ids are kept attached: a stray may be one that was pinned beside its place, and whose
/// agent was killed before it was there.
pub fn remove_strays(directory: &Path, known: &[&str], kept: &[u32]) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| known.contains(&name)) {
            continue;
        }
        let path = entry.path();
        detach(&path, kept);
        tracing::info!(pin = %path.display(), "a stray pin is removed");
        if let Err(error) = remove_tree(&path, &mut Vec::new()).or_else(|_| fs::remove_file(&path))
        {
            tracing::warn!(pin = %path.display(), %error, "a stray pin cannot be removed");
        }
    }
}
