//! The network namespaces of the node, as far as they can be seen: this process's own, those that are
//! mounted, and those of processes.
//!
//! Container runtimes mount their pods' ones, each in its own folder: containerd's CRI plugin in
//! `/run/netns`, or in its state folder (`/run/containerd/io.containerd.grpc.v1.cri/netns`) with
//! `netns_mounts_under_state_dir`; CRI-O in `netns` of its `namespaces_dir`, which is `/var/run`; Docker,
//! below cri-dockerd, in `/run/docker/netns`; `ip netns` in `/run/netns`. What counts is that they are
//! mounted here, wherever that is.

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
use crate::bpf::syscall::netns_cookie;

/// A network namespace's device and inode number: no other one has them while it exists.
type Identity = (u64, u64);

/// This thread cannot return to its own network namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot go back to the helper's own network namespace")]
pub struct Astray(#[source] Errno);

/// Visits network namespaces, each once.
pub struct Namespaces {
    own: File,
    visited: HashSet<Identity>,
    /// Namespaces that could not be entered by any path so far.
    unseen: HashMap<Identity, String>,
    /// Processes and mounts whose network namespace is unknown.
    hidden: BTreeMap<PathBuf, String>,
    began: Duration,
}

/// Why a path's network namespace could not be entered.
struct Unseen {
    /// `None` if it is not known which one it is.
    identity: Option<Identity>,
    error: io::Error,
}

/// Processor time of this process.
fn spent() -> Duration {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

/// Whether to go on to the next namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Go,
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

    /// What was visited so far.
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

    /// Calls `look` in this process's own namespace, then in those that are mounted or a process's,
    /// until it returns [`Next::Stop`].
    pub fn visit(&mut self, look: &mut impl FnMut() -> io::Result<Next>) -> Result<Next, Astray> {
        let own = PathBuf::from("/proc/thread-self/ns/net");
        let all = std::iter::once((own.clone(), own))
            .chain(mounted().into_iter().map(|path| (path.clone(), path)))
            .chain(numbered(Path::new("/proc")).map(|process| (process.join("ns/net"), process)));
        for (path, owner) in all {
            if self.visit_one(&path, owner, look)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Go)
    }

    /// The same in this process's own namespace and in those that are mounted.
    fn visit_mounted(&mut self, look: &mut impl FnMut() -> io::Result<Next>) -> Result<(), Astray> {
        let own = PathBuf::from("/proc/thread-self/ns/net");
        for path in [own].into_iter().chain(mounted()) {
            if self.visit_one(&path, path.clone(), look)? == Next::Stop {
                break;
            }
        }
        Ok(())
    }

    /// The same in namespaces of single threads.
    pub fn visit_threads(
        &mut self,
        look: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Next, Astray> {
        for process in numbered(Path::new("/proc")) {
            for thread in numbered(&process.join("task")) {
                let path = thread.join("ns/net");
                if self.visit_one(&path, process.clone(), look)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
        }
        Ok(Next::Go)
    }

    /// `owner` is what has the path: the process, or the mount.
    fn visit_one(
        &mut self,
        path: &Path,
        owner: PathBuf,
        look: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Next, Astray> {
        Ok(match self.enter(path, look)? {
            Ok(next) => next,
            // The process ended meanwhile.
            Err(Unseen { error, .. })
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Next::Go
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
                Next::Go
            }
        })
    }

    fn enter(
        &mut self,
        path: &Path,
        look: &mut impl FnMut() -> io::Result<Next>,
    ) -> Result<Result<Next, Unseen>, Astray> {
        let (namespace, identity) = match self.open_new(path) {
            Ok(Some(new)) => new,
            Ok(None) => return Ok(Ok(Next::Go)),
            Err(error) => return Ok(Err(Unseen { identity: None, error })),
        };
        let unseen = |error| Unseen { identity: Some(identity), error };
        let is_own = self.own.metadata().is_ok_and(|own| self::identity(&own) == identity);
        // Staying in the own namespace takes no capability.
        if !is_own && let Err(error) = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET) {
            return Ok(Err(unseen(error.into())));
        }
        let looked = look();
        if !is_own {
            // Return in any case before the next one.
            setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Astray)?;
        }
        if looked.is_ok() {
            self.visited.insert(identity);
            // Another path to it may have failed before.
            self.unseen.remove(&identity);
        }
        Ok(looked.map_err(unseen))
    }

    /// Opens a namespace; `None` if it was visited already.
    fn open_new(&self, path: &Path) -> io::Result<Option<(File, Identity)>> {
        // Compare first: most processes are in a namespace that was visited already.
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
        Ok(Next::Go)
    })?;
    if let Some(why) = namespaces.coverage().why {
        anyhow::bail!("cannot look into network namespaces: {why}");
    }
    Ok(cookies)
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Where network namespaces are mounted.
fn mounted() -> Vec<PathBuf> {
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The mount points of network namespaces in a `mountinfo` (`proc_pid_mountinfo(5)`).
fn parse_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (fields, rest) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let is_network = rest.starts_with("nsfs ") && root.starts_with("net:[");
            is_network.then(|| unescape(point).into())
        })
        .collect()
}

/// Blanks and backslashes are octal in `mountinfo`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn numbered(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of network namespaces, mounted, that is gone with this.
    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = nix::mount::umount(&self.0);
        }
    }

    #[test]
    fn a_namespace_that_cannot_be_looked_into_counts_once_however_many_paths_lead_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["first", "second", "third"].map(|name| folder.path().join(name));
        // A thread of its own: it is in a namespace that no other thread of this process is in.
        std::thread::scope(|scope| {
            let own = scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
                paths.clone().map(|path| {
                    File::create(&path).unwrap();
                    let flags = nix::mount::MsFlags::MS_BIND;
                    let this = Path::new("/proc/thread-self/ns/net");
                    nix::mount::mount(Some(this), &path, None::<&str>, flags, None::<&str>)
                        .unwrap();
                    Mounted(path)
                })
            });
            let _mounted = own.join().unwrap();
            let seen = scope.spawn(|| {
                let mut namespaces = Namespaces::new().unwrap();
                for path in &paths {
                    let mut refused = || Err(io::Error::other("no"));
                    let next = namespaces.visit_one(path, path.clone(), &mut refused).unwrap();
                    assert_eq!(next, Next::Go);
                }
                let coverage = namespaces.coverage();
                assert_eq!(
                    (coverage.namespaces, coverage.unseen, coverage.hidden),
                    (0, 1, 0),
                    "{coverage:?}"
                );
                let why = coverage.why.unwrap();
                assert!(why.ends_with("first: no"), "{why}");
                // By any path is enough.
                let mut seen = || Ok(Next::Go);
                namespaces.visit_one(&paths[2], paths[2].clone(), &mut seen).unwrap();
                let coverage = namespaces.coverage();
                assert!(
                    coverage.is_whole() && coverage.why.is_none() && coverage.namespaces == 1,
                    "{coverage:?}"
                );
            });
            // Before the mounts go.
            seen.join().unwrap();
        });
    }

    #[test]
    fn who_cannot_go_back_looks_no_further() {
        let looked = std::thread::spawn(|| {
            let mut namespaces = Namespaces::new().unwrap();
            // Nothing that can be entered.
            namespaces.own = File::open("/dev/null").unwrap();
            let mut looks = 0;
            let result = namespaces.visit(&mut || {
                looks += 1;
                Ok(Next::Go)
            });
            (result, looks)
        });
        let (result, looks) = looked.join().unwrap();
        assert_eq!(
            result.unwrap_err().to_string(),
            "cannot go back to the helper's own network namespace"
        );
        assert_eq!(looks, 1);
    }

    #[test]
    fn only_mounts_of_network_namespaces_are_taken() {
        let mountinfo = "\
22 28 0:21 / /proc rw shared:13 - proc proc rw
88 25 0:4 net:[4026532201] /run/netns/cni-1 rw shared:44 - nsfs nsfs rw
89 25 0:4 mnt:[4026532202] /run/mnt/x rw - nsfs nsfs rw
90 25 0:4 net:[4026532203] /run/netns/with\\040blank rw - nsfs nsfs rw
";
        let expected = ["/run/netns/cni-1", "/run/netns/with blank"].map(PathBuf::from);
        assert_eq!(parse_mounts(mountinfo), expected);
    }
}
