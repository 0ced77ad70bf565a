//! Events of the kernel when something in the folder changes.

use std::path::{Path, PathBuf};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

pub(super) struct Inotify {
    dir: PathBuf,
    /// `None`: the system has no inotify instance left. Then only periodic scans find changes.
    watcher: Option<RecommendedWatcher>,
    /// Capacity 1: an event only says that a scan is due.
    changed: mpsc::Receiver<()>,
    /// Keeps `changed` open when there is no watcher.
    _sender: mpsc::Sender<()>,
}

impl Inotify {
    pub(super) fn new(dir: &Path) -> Self {
        let (sender, changed) = mpsc::channel(1);
        let notify = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                // Full: a scan is already due.
                let _ = notify.try_send(());
            }
        })
        .inspect_err(|error| {
            tracing::warn!(%error, "inotify is not available: the folder is scanned every few seconds instead");
        })
        .ok();
        Self { dir: dir.to_owned(), watcher, changed, _sender: sender }
    }

    /// Watches the folder that is now at the path. It may be called repeatedly.
    pub(super) fn attach(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&self.dir, RecursiveMode::NonRecursive)
        {
            // The scan that follows reports a missing folder.
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

/// Reading a file causes events, too (notify 8 subscribes to opens): without this, each scan would cause the next.
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
