//! Hearing of new cgroups.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::CreateKind};
use tokio::sync::mpsc;

use super::tree::Tree;

/// Reads the hierarchy, and says when it is worth reading again.
pub struct Watcher {
    top: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// With the ids of the cgroups.
    watched: BTreeMap<PathBuf, u64>,
    /// At most one waits: it stands for any number of new cgroups.
    created: mpsc::Receiver<()>,
}

impl Watcher {
    /// Watches nothing yet: that begins with the first [`Self::read`].
    #[must_use]
    pub fn new(top: &Path) -> Self {
        let (sender, created) = mpsc::channel(1);
        let notice = move |event: notify::Result<notify::Event>| {
            let is_of_interest = match event {
                Ok(event) => {
                    event.need_rescan()
                        || matches!(event.kind, EventKind::Create(CreateKind::Folder))
                }
                Err(_) => true,
            };
            if is_of_interest {
                // Full: one is waiting already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(notice)
            .inspect_err(|error| tracing::warn!("cannot watch for new cgroups: {error}"))
            .ok();
        Self { top: top.to_owned(), watcher, watched: BTreeMap::new(), created }
    }

    /// Returns once a cgroup was made since the last [`Self::read`]; never, if that cannot be
    /// watched.
    pub async fn created(&mut self) {
        if self.created.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// New cgroups are not heard of: whoever wants to know of them has to read.
    pub const fn is_blind(&self) -> bool {
        self.watcher.is_none()
    }

    /// Reads the hierarchy, and watches every folder that pods can be made in. What is made after
    /// the reading is heard of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> io::Result<Tree> {
        loop {
            let tree = Tree::read(&self.top)?;
            let Some(watcher) = &mut self.watcher else { return Ok(tree) };
            // A folder's watch goes with it, and does not come back with one of the same name.
            let gone = |(folder, id): &(&PathBuf, &u64)| tree.parents.get(*folder) != Some(*id);
            for (folder, _) in self.watched.iter().filter(gone) {
                // Nothing to do if its removal was heard of.
                let _ = watcher.unwatch(folder);
            }
            let is_new = |(folder, id): &(&PathBuf, &u64)| self.watched.get(*folder) != Some(*id);
            let unwatched: Vec<&PathBuf> =
                tree.parents.iter().filter(is_new).map(|(folder, _)| folder).collect();
            if unwatched.is_empty() {
                self.watched.clone_from(&tree.parents);
                return Ok(tree);
            }
            let mut failed = None;
            for folder in unwatched {
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
                    && folder.exists()
                {
                    failed = Some((folder.clone(), error));
                }
            }
            if let Some((folder, error)) = failed {
                tracing::warn!(
                    "cannot watch {} for new cgroups, looking every few seconds instead: {error}",
                    folder.display()
                );
                self.watcher = None;
            }
            // Pods may have been made in a folder between its reading and its watch.
            self.watched = tree.parents;
        }
    }
}
