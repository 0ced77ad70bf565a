//! The lock on the folder of the pins: one writer, or several readers.

use std::{
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sys::stat::{FileStat, fstat, major, minor},
};

use super::layout::Pins;
use crate::{bpf::error::BpfError, dataplane::error::DataplaneError};

/// How long a writer waits for readers, which hold the lock for microseconds.
pub const READERS_TIMEOUT: Duration = Duration::from_millis(200);

/// The exclusive lock on the pins' folder. The kernel releases it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct Lock {
    directory: Flock<OwnedFd>,
}

impl Pins {
    /// Takes the lock; `None` if another process holds it.
    pub fn lock(&self) -> Result<Option<Lock>, DataplaneError> {
        self.lock_as(FlockArg::LockExclusiveNonblock)
    }

    /// Whether a writer holds the lock. Readers that ask at the same time share it.
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
                // The previous holder may have removed the directory. Then others lock a new one.
                if self.are_locked_by(&lock) { Ok(Some(lock)) } else { self.lock_as(kind) }
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Creates the directory if needed and takes the lock; retries until `timeout` is over while
    /// another process holds it. Blocks the thread.
    pub fn lock_within(&self, timeout: Duration) -> Result<Option<Lock>, DataplaneError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.create_root()?;
            match self.lock() {
                Ok(None) if Instant::now() < deadline => {}
                // The directory was removed at this moment.
                Err(DataplaneError::Bpf(BpfError::Io { source, .. }))
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

    /// The process that holds the lock, if it is visible in this PID namespace (proc_locks(5)). `procfs` 0.18 drops the
    /// `->` that marks a waiting process, and a file that it cannot parse (`<none>:0`) is an error for all lines.
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
}
