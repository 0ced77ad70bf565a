//! Runs the connects in a child process in a cgroup.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;

use super::{Outcome, Request, is_root, probe};
use crate::{cgroups::OF_CHECKS, mounts};

/// An older cgroup of a check belongs to one that was killed.
const STALE: Duration = Duration::from_secs(60);
/// Timeout for removing a cgroup: the kernel detaches an ended process from its cgroup some time after `wait`.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A new cgroup, as for a new pod.
    Fresh,
    /// The attached cgroup itself, which on a node is the root.
    Host,
}

impl Place {
    pub const fn id(self) -> &'static str {
        match self {
            Self::Fresh => "fresh-cgroup",
            Self::Host => "host",
        }
    }

    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Fresh => "a fresh cgroup",
            Self::Host => "the host",
        }
    }

    /// Makes the connects there.
    pub fn run(self, attached: &Path, request: &Request) -> anyhow::Result<Vec<Outcome>> {
        match self {
            Self::Fresh => {
                // In a cgroup namespace, no process can be moved out of the namespace's root cgroup.
                let within = |parent: &Path| {
                    let fresh = Fresh::within(parent)?;
                    in_cgroup(Some(&fresh.0), request)
                };
                within(attached)
                    .or_else(|error| within(&own_cgroup(attached).ok_or(error)?))
                    .or_else(|error| in_own_cgroup(attached, request).ok_or(error)?)
            }
            // A cgroup that enables controllers for its children has no processes itself.
            Self::Host => in_cgroup(Some(attached), request)
                .or_else(|error| in_own_cgroup(attached, request).ok_or(error)?),
        }
    }
}

/// A new cgroup. Dropping this removes it once its processes have ended.
struct Fresh(PathBuf);

impl Fresh {
    fn within(parent: &Path) -> anyhow::Result<Self> {
        remove_stale(parent);
        // Process ids are not unique among containers.
        let random = RandomState::new().hash_one(process::id());
        let path = parent.join(format!("{OF_CHECKS}{random:016x}"));
        fs::create_dir(&path)
            .with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        let this = Self(path);
        // Below a threaded cgroup, only threaded ones are valid.
        let kind = fs::read_to_string(parent.join("cgroup.type")).unwrap_or_default();
        if kind.contains("threaded") {
            fs::write(this.0.join("cgroup.type"), "threaded")
                .with_context(|| format!("cannot make {} threaded", this.0.display()))?;
        }
        Ok(this)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes the cgroups of killed checks, except those that still have a process.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let age = || {
            let made = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            SystemTime::now().duration_since(made).ok()
        };
        if entry.file_name().to_string_lossy().starts_with(OF_CHECKS)
            && age().is_some_and(|age| age > STALE)
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Makes the connects in the cgroup of this process, if that is below the attached cgroup. In the agent's own
/// container, where the hierarchy is read-only, there is no other place.
fn in_own_cgroup(attached: &Path, request: &Request) -> Option<anyhow::Result<Vec<Outcome>>> {
    is_below(attached).then(|| in_cgroup(None, request))
}

/// Whether this process is in the attached cgroup or below it.
#[must_use]
pub fn is_below(attached: &Path) -> bool {
    is_root(attached) || own_cgroup(attached).is_some()
}

/// The cgroup of this process, if it is the attached one or below it.
fn own_cgroup(attached: &Path) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts::cgroup_for_reading(None).ok()??;
    let own = mount.join(path);
    (own.starts_with(attached) && own.exists()).then_some(own)
}

/// Makes the connects in a child that moves to a cgroup, or stays in this process's one if `None`.
fn in_cgroup(cgroup: Option<&Path>, request: &Request) -> anyhow::Result<Vec<Outcome>> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(probe::COMMAND);
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup-root").arg(cgroup);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start /proc/self/exe")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ended early reports the reason on standard error.
        let _ = stdin.write_all(&serde_json::to_vec(request)?);
    }
    let output = child.wait_with_output().context("cannot wait for the child")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{}", error.trim().trim_start_matches("error: "));
    }
    serde_json::from_slice(&output.stdout).context("the child's output cannot be parsed")
}
