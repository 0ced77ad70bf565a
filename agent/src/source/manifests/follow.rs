//! Follows a folder of manifests: every change of a file becomes the events that make it so.
//!
//! inotify only says when to scan the folder. What changed is found by comparing the folder with what was
//! sent, so a lost, duplicate or misleading inotify event costs time, but no change.
//!
//! An object is deleted only when its file is gone (ENOENT) or no longer has it. A file that does not parse,
//! a file that cannot be read, and a folder that is gone delete nothing: an editor, a mount or a sync tool
//! may be half-way.

use std::{path::Path, path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    file_state::{FileStates, Update},
    folder::FolderContents,
    inotify::Inotify,
    scan::{Fingerprint, Scan, scan},
};
use crate::{
    model::{event::Completeness, object::InputError},
    source::Event,
};

/// How long no event may come before the folder is scanned: one save of an editor or one `kubectl cp` causes
/// many events.
const QUIET: Duration = Duration::from_millis(20);
/// The longest wait for that.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// How often to compare the files' fingerprints, for changes without an inotify event: the queue overflowed,
/// the user has no inotify instance left, or it is a network or overlay file system.
const RESCAN: Duration = Duration::from_secs(3);
/// The same while the folder is missing: nothing can be watched then.
const RESCAN_MISSING: Duration = Duration::from_millis(500);

/// Sends the objects of the manifests in `dir`, first as one `Replace` for each kind, then changes, until `stop`
/// or until the receiver is closed. All changes that one scan finds are sent together.
///
/// A folder with a file that cannot be read in full is not [`Event::Complete`].
///
/// `read` reads the whole folder and may block: it is called on a blocking thread. Its result is used only if
/// the folder did not change meanwhile. While the folder has never existed, only `SourceErrors` is sent.
///
/// Within one change, EndpointSlices and Nodes are applied before Services, and Services are deleted before
/// EndpointSlices, so that a new Service is never without its endpoints.
pub async fn follow<R>(
    dir: PathBuf,
    read: R,
    changes: mpsc::Sender<Vec<Event>>,
    stop: CancellationToken,
) where
    R: FnMut(&Path) -> FolderContents + Send + 'static,
{
    let follower = Follower {
        inotify: Inotify::new(&dir),
        dir,
        read: Some(read),
        changes,
        file_states: FileStates::default(),
        errors: Vec::new(),
        completeness: Completeness::Complete,
        seen: None,
    };
    stop.run_until_cancelled(follower.run()).await;
}

struct Follower<R> {
    dir: PathBuf,
    inotify: Inotify,
    /// `None` while a blocking thread uses it.
    read: Option<R>,
    changes: mpsc::Sender<Vec<Event>>,
    file_states: FileStates,
    /// As last sent.
    errors: Vec<InputError>,
    /// As last sent; `true` before anything was sent.
    completeness: Completeness,
    /// The files of the last contents; `None` while the folder is missing.
    seen: Option<Fingerprint>,
}

/// The receiver of the events is closed.
struct Closed;

impl<R: FnMut(&Path) -> FolderContents + Send + 'static> Follower<R> {
    async fn run(mut self) {
        while self.sync().await.is_ok() {
            let rescan = if self.seen.is_some() { RESCAN } else { RESCAN_MISSING };
            if timeout(rescan, self.inotify.changed()).await.is_ok() {
                self.wait_for_quiet().await;
                // An edit can leave size and times as they were (same length within one tick of the
                // file system's clock), so after an event the files are read, not compared.
                if let Some(seen) = &mut self.seen {
                    seen.forget_files();
                }
            }
        }
    }

    /// Waits until no more events come, for a limited time.
    async fn wait_for_quiet(&mut self) {
        let deadline = Instant::now() + MAX_WAIT;
        while Instant::now() < deadline && timeout(QUIET, self.inotify.changed()).await.is_ok() {}
    }

    /// Scans the folder and sends the changes.
    async fn sync(&mut self) -> Result<(), Closed> {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            // Before the scan, so that later changes cause an event. Each time, because a folder that was
            // replaced may have its predecessor's inode.
            self.inotify.attach();
            match self.scan().await {
                Scan::Missing(error) => return self.missing(&error).await,
                Scan::Same => return Ok(()),
                Scan::New { contents, fingerprint, steady } => {
                    if steady || Instant::now() >= deadline {
                        // It does not stop changing: send this, and read again next time.
                        self.seen = Some(if steady { fingerprint } else { fingerprint.unknown() });
                        let change = self.change(contents);
                        return self.send(change).await;
                    }
                }
            }
            sleep(QUIET).await;
        }
    }

    async fn scan(&mut self) -> Scan {
        let mut read = self.read.take().expect("the reader is back after every scan");
        let dir = self.dir.clone();
        let seen = self.seen.clone();
        let scanning = tokio::task::spawn_blocking(move || {
            let result = scan(&dir, seen.as_ref(), &mut read);
            (read, result)
        });
        match scanning.await {
            Ok((read, result)) => {
                self.read = Some(read);
                result
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn missing(&mut self, error: &std::io::Error) -> Result<(), Closed> {
        self.seen = None;
        let kept = if self.file_states.is_empty() {
            "waiting for it".to_owned()
        } else {
            format!("its {} objects stay as they were until it is back", self.file_states.len())
        };
        let input_error = InputError {
            object: format!("folder {}", self.dir.display()).into(),
            field: String::new(),
            message: format!("cannot be read ({error}); {kept}"),
        };
        let errors = self.source_errors(vec![input_error]);
        self.send(errors.into_iter().collect()).await
    }

    async fn send(&self, change: Vec<Event>) -> Result<(), Closed> {
        if change.is_empty() {
            return Ok(());
        }
        self.changes.send(change).await.map_err(|_| Closed)
    }

    /// What is different in this contents, in the order in which it is to be applied.
    fn change(&mut self, contents: FolderContents) -> Vec<Event> {
        let Update { mut events, input_errors, completeness } = self.file_states.update(contents);
        let is_new = std::mem::replace(&mut self.completeness, completeness) != completeness;
        let changed = is_new.then_some(Event::Completeness(completeness));
        // It goes before incomplete contents, and after complete ones: until then the receiver must not remove an
        // object because it is missing.
        let (before, after) = match completeness {
            Completeness::Incomplete => (changed, None),
            Completeness::Complete => (None, changed),
        };
        events.splice(..0, before);
        events.extend(self.source_errors(input_errors));
        events.extend(after);
        events
    }

    fn source_errors(&mut self, input_errors: Vec<InputError>) -> Option<Event> {
        if input_errors == self.errors {
            return None;
        }
        if input_errors.is_empty() {
            tracing::info!(folder = %self.dir.display(), "all manifests can be read again");
        }
        self.errors.clone_from(&input_errors);
        Some(Event::SourceErrors(input_errors))
    }
}
