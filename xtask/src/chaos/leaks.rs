//! What remains in the kernel after a run.
//!
//! Other programs may use the machine meanwhile. So the run records all objects that the agent has open or pinned,
//! and looks for these.

use std::{
    collections::BTreeSet,
    fs,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sockline_testbed::bpf::{self, Object};

/// The kernel frees objects some time after their last user is gone.
const FREED_WITHIN: Duration = Duration::from_secs(20);

/// BPF objects, by kind and id.
#[derive(Default)]
pub(super) struct Objects(BTreeSet<(Object, u32)>);

impl Objects {
    pub(super) fn add(&mut self, objects: impl IntoIterator<Item = (Object, u32)>) {
        self.0.extend(objects);
    }

    /// Adds everything that is pinned in a folder.
    pub(super) fn add_pinned(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add_pinned(&entry.path());
            } else if let Ok(Some(object)) = bpf::pinned(&entry.path()) {
                self.0.insert(object);
            }
        }
    }

    fn count(&self, object: Object) -> usize {
        self.0.iter().filter(|(kind, _)| *kind == object).count()
    }

    fn remaining(&self) -> Self {
        Self(self.0.iter().copied().filter(|(object, id)| bpf::exists(*object, *id)).collect())
    }
}

/// What a run created, and must be gone after it.
pub(super) struct Traces {
    pub(super) objects: Objects,
    /// Inode numbers of the network namespaces.
    pub(super) namespaces: BTreeSet<u64>,
    /// The cgroup, the pins, the temporary folder.
    pub(super) folders: Vec<PathBuf>,
}

/// By kind: the number of objects, and how many of them remain.
pub(super) type LeakReport = Vec<(&'static str, usize, usize)>;

impl Traces {
    /// Waits until everything is gone, or [`FREED_WITHIN`] is over.
    pub(super) fn remaining_objects(&self) -> LeakReport {
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let account = self.count_remaining();
            let clean = account.iter().all(|(_, _, left)| *left == 0);
            if clean || Instant::now() > deadline {
                return account;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn count_remaining(&self) -> LeakReport {
        let left = self.objects.remaining();
        let in_use = namespaces_in_use();
        let namespaces = self.namespaces.intersection(&in_use).count();
        let folders = self.folders.iter().filter(|folder| folder.exists()).count();
        vec![
            ("maps", self.objects.count(Object::Map), left.count(Object::Map)),
            ("programs", self.objects.count(Object::Program), left.count(Object::Program)),
            ("links", self.objects.count(Object::Link), left.count(Object::Link)),
            ("network namespaces", self.namespaces.len(), namespaces),
            ("folders of pins, cgroups and files", self.folders.len(), folders),
        ]
    }
}

/// The network namespaces of all running threads.
fn namespaces_in_use() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let threads = processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .flat_map(|entry| fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten());
    let inode = |thread: fs::DirEntry| fs::metadata(thread.path().join("ns/net")).ok();
    threads.filter_map(inode).map(|metadata| metadata.st_ino()).collect()
}
