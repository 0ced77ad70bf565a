//! The network namespaces of the node, as far as they can be seen: this process's own, those that are
//! mounted (container runtimes do so below `/run/netns`, `ip netns` does), and those of processes.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    time::ClockId,
};

use crate::dataplane::netns_cookie;

/// A network namespace's device and inode number: no other one has them while it exists.
type Identity = (u64, u64);

/// Goes through network namespaces, each once.
pub struct Namespaces {
    own: File,
    visited: HashSet<Identity>,
    /// Those that could not be looked at.
    unseen: usize,
    why: Option<String>,
    began: Duration,
}

/// Time of a processor that this process took.
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
        let own = File::open("/proc/thread-self/ns/net")?;
        Ok(Self { own, visited: HashSet::new(), unseen: 0, why: None, began: spent() })
    }

    /// Time of a processor since this was made.
    pub fn spent(&self) -> Duration {
        spent().saturating_sub(self.began)
    }

    /// Namespaces that were looked at.
    pub fn visited(&self) -> usize {
        self.visited.len()
    }

    /// How many could not be looked at, and why the first one.
    pub fn unseen(&self) -> (usize, Option<&str>) {
        (self.unseen, self.why.as_deref())
    }

    /// Calls `look` in this process's own namespace, then in those that are mounted or a process's,
    /// until it has seen enough.
    pub fn visit(&mut self, look: &mut impl FnMut() -> io::Result<Next>) -> Next {
        let own = Path::new("/proc/thread-self/ns/net");
        if self.visit_one(own, look) == Next::Stop {
            return Next::Stop;
        }
        for path in mounted().into_iter().chain(of_processes()) {
            if self.visit_one(&path, look) == Next::Stop {
                return Next::Stop;
            }
        }
        Next::Go
    }

    /// The same in this process's own namespace and in those that are mounted.
    fn visit_mounted(&mut self, look: &mut impl FnMut() -> io::Result<Next>) {
        let own = PathBuf::from("/proc/thread-self/ns/net");
        for path in [own].into_iter().chain(mounted()) {
            if self.visit_one(&path, look) == Next::Stop {
                return;
            }
        }
    }

    /// The same in namespaces of single threads.
    pub fn visit_threads(&mut self, look: &mut impl FnMut() -> io::Result<Next>) -> Next {
        for process in numbered(Path::new("/proc")) {
            for thread in numbered(&process.join("task")) {
                if self.visit_one(&thread.join("ns/net"), look) == Next::Stop {
                    return Next::Stop;
                }
            }
        }
        Next::Go
    }

    fn visit_one(&mut self, path: &Path, look: &mut impl FnMut() -> io::Result<Next>) -> Next {
        let visited = self.enter(path, look);
        // Whatever happened in there, the next one is looked for from here.
        let _ = setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET);
        match visited {
            Ok(next) => next,
            // A process that ended meanwhile.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Next::Go
            }
            Err(error) => {
                self.unseen += 1;
                self.why.get_or_insert_with(|| format!("{}: {error}", path.display()));
                Next::Go
            }
        }
    }

    fn enter(
        &mut self,
        path: &Path,
        look: &mut impl FnMut() -> io::Result<Next>,
    ) -> io::Result<Next> {
        // A look first: most processes are in a namespace that was seen already.
        if self.visited.contains(&identity(&fs::metadata(path)?)) {
            return Ok(Next::Go);
        }
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        if self.visited.contains(&identity) {
            return Ok(Next::Go);
        }
        if identity != self::identity(&self.own.metadata()?) {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        let next = look()?;
        self.visited.insert(identity);
        Ok(next)
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
    });
    if let (1.., Some(why)) = namespaces.unseen() {
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

fn of_processes() -> impl Iterator<Item = PathBuf> {
    numbered(Path::new("/proc")).map(|process| process.join("ns/net"))
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
