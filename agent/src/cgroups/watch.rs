//! Watches for new cgroups (inotify).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::CreateKind};
use tokio::sync::mpsc;

use super::tree::Tree;

/// Reads the hierarchy, and reports when to read it again.
pub struct Watcher {
    top: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// With the ids of the cgroups.
    watched: BTreeMap<PathBuf, u64>,
    /// At most one notification is pending, for any number of new cgroups.
    created: mpsc::Receiver<()>,
}

impl Watcher {
    /// Starts to watch with the first [`Self::read`].
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
                // An error means that a notification is pending already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(notice)
            .inspect_err(|error| tracing::warn!("cannot watch for new cgroups: {error}"))
            .ok();
        Self { top: top.to_owned(), watcher, watched: BTreeMap::new(), created }
    }

    /// Returns once a cgroup was created since the last [`Self::read`]; never if cgroups cannot be watched.
    pub async fn created(&mut self) {
        if self.created.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether new cgroups are not reported, so that the caller has to poll.
    pub const fn is_blind(&self) -> bool {
        self.watcher.is_none()
    }

    /// Reads the hierarchy, and watches every folder in which pods can be created. Cgroups that are created
    /// afterwards are reported.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> io::Result<Tree> {
        loop {
            let tree = Tree::read(&self.top)?;
            let Some(watcher) = &mut self.watcher else { return Ok(tree) };
            // The watch ends with the folder, also if one of the same name is created.
            let gone = |(folder, id): &(&PathBuf, &u64)| tree.parents.get(*folder) != Some(*id);
            for (folder, _) in self.watched.iter().filter(gone) {
                // An error means that the watch has ended already.
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
            // Pods may have been created in a folder between its reading and its watch.
            self.watched = tree.parents;
        }
    }
}
