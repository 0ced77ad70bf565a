//! The kernel's word that something in the folder changed.

use std::path::{Path, PathBuf};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

pub(super) struct Notices {
    dir: PathBuf,
    /// `None`: the system gives none, and the follower lives by its rescans.
    watcher: Option<RecommendedWatcher>,
    /// One place is enough: a notice says "look", not what at.
    changed: mpsc::Receiver<()>,
    /// Keeps `changed` open when there is no watcher.
    _sender: mpsc::Sender<()>,
}

impl Notices {
    pub(super) fn new(dir: &Path) -> Self {
        let (sender, changed) = mpsc::channel(1);
        let notify = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                // Full: a look is already due.
                let _ = notify.try_send(());
            }
        })
        .inspect_err(|error| {
            tracing::warn!(%error, "no file notices: changes are found by rescans every few seconds");
        })
        .ok();
        Self { dir: dir.to_owned(), watcher, changed, _sender: sender }
    }

    /// Watches what is now at the folder's path; again and again does no harm.
    pub(super) fn attach(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&self.dir, RecursiveMode::NonRecursive)
        {
            // A missing folder is reported by the look that follows.
            tracing::debug!(%error, "cannot watch the folder");
        }
    }

    pub(super) async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // Not reached: this struct holds a sender.
            std::future::pending::<()>().await;
        }
    }
}

/// Reading a file is an event too (notify 8 subscribes to opens): ours would wake us for ever.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    #[test]
    fn reading_does_not_matter_and_writing_does() {
        let access = |kind| EventKind::Access(kind);
        for mode in [AccessMode::Any, AccessMode::Read] {
            assert!(!matters(access(AccessKind::Open(mode))), "{mode:?}");
            assert!(!matters(access(AccessKind::Close(mode))), "{mode:?}");
        }
        assert!(matters(access(AccessKind::Close(AccessMode::Write))));
        assert!(matters(EventKind::Create(CreateKind::File)));
        assert!(matters(EventKind::Modify(ModifyKind::Any)));
    }
}
