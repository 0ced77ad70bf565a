//! Hearing of new cgroups.

use std::{
    collections::BTreeSet,
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
    watched: BTreeSet<PathBuf>,
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
        Self { top: top.to_owned(), watcher, watched: BTreeSet::new(), created }
    }

    /// Returns once a cgroup was made since the last [`Self::read`]; never, if that cannot be
    /// watched.
    pub async fn created(&mut self) {
        if self.created.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads the hierarchy, and watches every folder that pods can be made in. What is made after
    /// the reading is heard of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> io::Result<Tree> {
        loop {
            let tree = Tree::read(&self.top)?;
            let parents: BTreeSet<PathBuf> = tree.parents.iter().cloned().collect();
            let unwatched: Vec<&PathBuf> = parents.difference(&self.watched).collect();
            let Some(watcher) = self.watcher.as_mut().filter(|_| !unwatched.is_empty()) else {
                // A removed folder's watch went with it.
                self.watched = parents;
                return Ok(tree);
            };
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
            self.watched = parents;
        }
    }
}
