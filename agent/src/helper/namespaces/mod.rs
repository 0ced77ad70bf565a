//! Visits the network namespaces of the node that this process can find: its own, those that are mounted, and
//! those of processes and threads.
//!
//! Container runtimes mount the namespaces of pods, each in its own folder: containerd's CRI plugin in
//! `/run/netns`, or in its state folder (`/run/containerd/io.containerd.grpc.v1.cri/netns`) with
//! `netns_mounts_under_state_dir`; CRI-O in `netns` of its `namespaces_dir`, which is `/var/run`; Docker
//! with cri-dockerd in `/run/docker/netns`; `ip netns` in `/run/netns`. The mount table has all of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    time::ClockId,
};

use super::message::Coverage;
use crate::{bpf::syscall::netns_cookie, mounts::table};

/// A network namespace's device and inode number: unique while the namespace exists.
type Identity = (u64, u64);

/// This thread cannot return to its own network namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot return to the helper's own network namespace")]
pub struct CannotReturn(#[source] Errno);

/// Visits network namespaces, each once. A search that was stopped can be continued: it starts from the beginning, with a look
/// at the names of those that were visited.
pub struct Namespaces {
    own: File,
    visited: HashSet<Identity>,
    /// Namespaces that no path so far could be entered by, with the first error.
    unseen: HashMap<Identity, String>,
    /// Processes and mounts whose network namespace is unknown.
    hidden: BTreeMap<PathBuf, String>,
    began: Duration,
}

/// Why a path's network namespace could not be entered.
struct Unseen {
    /// `None` if the namespace could not be identified.
    identity: Option<Identity>,
    error: io::Error,
}

/// Processor time of this process.
fn spent() -> Duration {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

/// Whether to visit the next namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

impl Namespaces {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            own: File::open("/proc/thread-self/ns/net")?,
            visited: HashSet::new(),
            unseen: HashMap::new(),
            hidden: BTreeMap::new(),
            began: spent(),
        })
    }

    /// Counts processor time from now on.
    pub fn restart_clock(&mut self) {
        self.began = spent();
    }

    /// The coverage so far.
    pub fn coverage(&self) -> Coverage {
        let mut why: Vec<&String> = self.unseen.values().chain(self.hidden.values()).collect();
        // Sorted, so that the same error is reported each time.
        why.sort_unstable();
        Coverage {
            namespaces: self.visited.len(),
            unseen: self.unseen.len(),
            hidden: self.hidden.len(),
            why: why.first().map(|&why| why.clone()),
            spent: spent().saturating_sub(self.began),
        }
    }

    /// Calls `visit` in this process's own namespace, then in those that are mounted, then in those of
    /// processes, until it returns [`Next::Stop`].
    pub fn visit(
        &mut self,
        visit: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Next, CannotReturn> {
        let own = PathBuf::from("/proc/thread-self/ns/net");
        let all = std::iter::once((own.clone(), own))
            .chain(mounted().into_iter().map(|path| (path.clone(), path)))
            .chain(numbered(Path::new("/proc")).map(|process| (process.join("ns/net"), process)));
        for (path, owner) in all {
            if self.visit_one(&path, owner, visit)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Continue)
    }

    /// As [`Self::visit`], only for this process's own namespace and those that are mounted.
    fn visit_mounted(
        &mut self,
        visit: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<(), CannotReturn> {
        let own = PathBuf::from("/proc/thread-self/ns/net");
        for path in [own].into_iter().chain(mounted()) {
            if self.visit_one(&path, path.clone(), visit)? == Next::Stop {
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::visit`], for the namespaces of all threads.
    pub fn visit_threads(
        &mut self,
        visit: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Next, CannotReturn> {
        for process in numbered(Path::new("/proc")) {
            for thread in numbered(&process.join("task")) {
                let path = thread.join("ns/net");
                if self.visit_one(&path, process.clone(), visit)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
        }
        Ok(Next::Continue)
    }

    #[cfg(test)]
    pub fn has_visited(&self, path: &Path) -> bool {
        self.visited.contains(&identity(&fs::metadata(path).unwrap()))
    }

    /// `owner` is the process, or the mount.
    fn visit_one(
        &mut self,
        path: &Path,
        owner: PathBuf,
        visit: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Next, CannotReturn> {
        Ok(match self.enter(path, visit)? {
            Ok(next) => next,
            // The process has ended meanwhile.
            Err(Unseen { error, .. })
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Next::Continue
            }
            Err(Unseen { identity, error }) => {
                let why = format!("{}: {error}", path.display());
                let known = match identity {
                    Some(identity) => self.unseen.entry(identity).or_default(),
                    None => self.hidden.entry(owner).or_default(),
                };
                if known.is_empty() {
                    *known = why;
                }
                Next::Continue
            }
        })
    }

    fn enter(
        &mut self,
        path: &Path,
        visit: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Result<Next, Unseen>, CannotReturn> {
        let (namespace, identity) = match self.open_new(path) {
            Ok(Some(new)) => new,
            Ok(None) => return Ok(Ok(Next::Continue)),
            Err(error) => return Ok(Err(Unseen { identity: None, error })),
        };
        let unseen = |error| Unseen { identity: Some(identity), error };
        let is_own = self.own.metadata().is_ok_and(|own| self::identity(&own) == identity);
        // For its own namespace, the process needs no capability.
        if !is_own && let Err(error) = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET) {
            return Ok(Err(unseen(error.into())));
        }
        let visited = visit();
        if !is_own {
            // Also after an error.
            setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET).map_err(CannotReturn)?;
        }
        if visited.is_ok() {
            self.visited.insert(identity);
            // Another path to it may have failed before.
            self.unseen.remove(&identity);
        }
        Ok(visited.map_err(unseen))
    }

    /// Opens a namespace; `None` if it was visited already.
    fn open_new(&self, path: &Path) -> io::Result<Option<(File, Identity)>> {
        // Compare before opening it: most processes are in a namespace that was visited already.
        if self.visited.contains(&identity(&fs::metadata(path)?)) {
            return Ok(None);
        }
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        Ok((!self.visited.contains(&identity)).then_some((file, identity)))
    }
}

/// The cookies of this process's own namespace and of those that are mounted (`SO_NETNS_COOKIE`, Linux
/// 5.14): all of them, or none.
pub fn cookies_of_mounted() -> anyhow::Result<Vec<u64>> {
    let mut cookies = Vec::new();
    let mut namespaces = Namespaces::new()?;
    namespaces.visit_mounted(&mut || {
        cookies.push(netns_cookie()?);
        Ok(Next::Continue)
    })?;
    if let Some(why) = namespaces.coverage().why {
        anyhow::bail!("cannot enter network namespaces: {why}");
    }
    Ok(cookies)
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// The mount points of network namespaces. If the mount table cannot be read, the namespaces of processes
/// are still visited.
fn mounted() -> Vec<PathBuf> {
    network_namespaces(table::read().unwrap_or_default())
}

fn network_namespaces(mounts: Vec<table::Mount>) -> Vec<PathBuf> {
    let is_one = |mount: &table::Mount| mount.kind == "nsfs" && mount.root.starts_with("net:[");
    mounts.into_iter().filter(is_one).map(|mount| mount.path).collect()
}

fn numbered(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests;
