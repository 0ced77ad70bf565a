//! What is left in the kernel in the end.
//!
//! Others may use the machine meanwhile, so what is counted is not how much there is, but which of the
//! objects that were seen in the agent or its pins still exist.

use std::{
    collections::BTreeSet,
    fs,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sockline_testbed::bpf::{self, Object};

/// The kernel frees what nobody has any more on its own time.
const FREED_WITHIN: Duration = Duration::from_secs(20);

/// Objects of BPF, by kind and id.
#[derive(Default)]
pub(super) struct Objects(BTreeSet<(Object, u32)>);

impl Objects {
    pub(super) fn add(&mut self, objects: impl IntoIterator<Item = (Object, u32)>) {
        self.0.extend(objects);
    }

    /// Everything that is pinned in a folder.
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

/// What was there, to be looked for when it must be gone.
pub(super) struct Traces {
    pub(super) objects: Objects,
    /// Inode numbers of the network namespaces.
    pub(super) namespaces: BTreeSet<u64>,
    /// The cgroup, the pins, the temporary folder.
    pub(super) folders: Vec<PathBuf>,
}

/// What was seen, and what of it is left, by kind.
pub(super) type Account = Vec<(&'static str, usize, usize)>;

impl Traces {
    /// Waits a while for what is still there to go.
    pub(super) fn account(&self) -> Account {
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let account = self.look();
            let clean = account.iter().all(|(_, _, left)| *left == 0);
            if clean || Instant::now() > deadline {
                return account;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn look(&self) -> Account {
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

/// Network namespaces that a thread is in.
fn namespaces_in_use() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let threads = processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .flat_map(|entry| fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten());
    let inode = |thread: fs::DirEntry| fs::metadata(thread.path().join("ns/net")).ok();
    threads.filter_map(inode).map(|metadata| metadata.st_ino()).collect()
}
