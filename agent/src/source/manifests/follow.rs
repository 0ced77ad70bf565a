//! Follows a folder of manifests: every change of a file becomes the events that make it so.
//!
//! The kernel's notices (inotify) only say when to look; what changed is found by comparing what is
//! there with what was sent. So a lost, doubled or misleading notice costs time, never truth.
//!
//! What was seen once is taken back only on evidence. A file that is gone (ENOENT) is evidence; a
//! file that does not parse, a file that cannot be read, and a folder that is gone are not: an
//! editor, a mount or a sync tool is in the middle of something.

use std::{path::Path, path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    file_state::{Ledger, Update},
    folder::FolderContents,
    inotify::Notices,
    scan::{Fingerprint, Look, look},
};
use crate::{model::object::InputError, source::Event};

/// How long the folder must be silent before it is read: an editor's save or a `kubectl cp` is many
/// notices.
const QUIET: Duration = Duration::from_millis(20);
/// When to read even if the folder is never silent.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often to compare the files' fingerprints, for notices that never came: the queue overflowed,
/// the user's inotify instances are used up, a network or overlay file system.
const RESCAN: Duration = Duration::from_secs(3);
/// The same while the folder is missing: nothing can be watched then.
const RESCAN_MISSING: Duration = Duration::from_millis(500);

/// Sends what the manifests in `dir` say, first as one `Replace` per kind, then as it changes, until
/// `stop` or until nobody receives. What changed from one reading of the folder to the next is sent
/// together.
///
/// A folder with a file that cannot be read in full is not [`Event::Complete`].
///
/// `read` reads the whole folder and may block; it is called on a blocking thread, and what it says
/// is used only if the folder stood still meanwhile. As long as the folder has never been there,
/// nothing but `SourceErrors` is sent.
///
/// Within one change, slices and nodes are applied before services and services are deleted before
/// slices, so that a new service is never seen without its endpoints.
pub async fn follow<R>(
    dir: PathBuf,
    read: R,
    changes: mpsc::Sender<Vec<Event>>,
    stop: CancellationToken,
) where
    R: FnMut(&Path) -> FolderContents + Send + 'static,
{
    let follower = Follower {
        notices: Notices::new(&dir),
        dir,
        read: Some(read),
        changes,
        ledger: Ledger::default(),
        trouble: Vec::new(),
        complete: true,
        seen: None,
    };
    stop.run_until_cancelled(follower.run()).await;
}

struct Follower<R> {
    dir: PathBuf,
    notices: Notices,
    /// Away while a blocking thread uses it.
    read: Option<R>,
    changes: mpsc::Sender<Vec<Event>>,
    ledger: Ledger,
    /// As last sent.
    trouble: Vec<InputError>,
    /// As last sent, or as it is taken to be.
    complete: bool,
    /// The files of the last contents; `None` while the folder is missing.
    seen: Option<Fingerprint>,
}

/// Nobody receives the events any more.
struct Unheard;

impl<R: FnMut(&Path) -> FolderContents + Send + 'static> Follower<R> {
    async fn run(mut self) {
        while self.turn().await.is_ok() {
            let rescan = if self.seen.is_some() { RESCAN } else { RESCAN_MISSING };
            if timeout(rescan, self.notices.changed()).await.is_ok() {
                self.settle().await;
                // An edit can leave size and times as they were (same length within one tick of the
                // file system's clock), so after a notice the files are read, not compared.
                if let Some(seen) = &mut self.seen {
                    seen.forget_files();
                }
            }
        }
    }

    /// Waits for the folder to fall silent.
    async fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && timeout(QUIET, self.notices.changed()).await.is_ok() {}
    }

    /// Looks at the folder and sends what is different.
    async fn turn(&mut self) -> Result<(), Unheard> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Attached before looking, so that what changes from here on gives a notice. Repeated
            // each time because a folder that was replaced may have its predecessor's inode.
            self.notices.attach();
            match self.look().await {
                Look::Missing(error) => return self.missing(&error).await,
                Look::Same => return Ok(()),
                Look::New { contents, fingerprint, steady } => {
                    if steady || Instant::now() >= deadline {
                        // Unsteady for long: send it, and read again at the next turn.
                        self.seen = Some(if steady { fingerprint } else { fingerprint.unknown() });
                        let change = self.change(contents);
                        return self.send(change).await;
                    }
                }
            }
            sleep(QUIET).await;
        }
    }

    async fn look(&mut self) -> Look {
        let mut read = self.read.take().expect("the reader is back after every look");
        let dir = self.dir.clone();
        let seen = self.seen.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let look = look(&dir, seen.as_ref(), &mut read);
            (read, look)
        });
        match looking.await {
            Ok((read, look)) => {
                self.read = Some(read);
                look
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn missing(&mut self, error: &std::io::Error) -> Result<(), Unheard> {
        self.seen = None;
        let kept = if self.ledger.is_empty() {
            "waiting for it".to_owned()
        } else {
            format!("its {} objects stay as they were until it is back", self.ledger.len())
        };
        let problem = InputError {
            object: format!("folder {}", self.dir.display()),
            field: String::new(),
            message: format!("cannot be read ({error}); {kept}"),
        };
        let trouble = self.trouble(vec![problem]);
        self.send(trouble.into_iter().collect()).await
    }

    async fn send(&self, change: Vec<Event>) -> Result<(), Unheard> {
        if change.is_empty() {
            return Ok(());
        }
        self.changes.send(change).await.map_err(|_| Unheard)
    }

    /// What is different in this contents, in the order in which it is to be applied.
    fn change(&mut self, contents: FolderContents) -> Vec<Event> {
        let Update { mut events, problems, complete } = self.ledger.update(contents);
        // Said before a list that is not whole, and taken back after one that is: what uses the events in
        // between must not take what is missing for gone.
        if !complete {
            events.splice(..0, self.completeness(false));
        }
        events.extend(self.trouble(problems));
        if complete {
            events.extend(self.completeness(true));
        }
        events
    }

    fn completeness(&mut self, complete: bool) -> Option<Event> {
        let was = std::mem::replace(&mut self.complete, complete);
        (was != complete).then_some(Event::Complete(complete))
    }

    fn trouble(&mut self, problems: Vec<InputError>) -> Option<Event> {
        if problems == self.trouble {
            return None;
        }
        if problems.is_empty() {
            tracing::info!(folder = %self.dir.display(), "all manifests are readable again");
        }
        self.trouble.clone_from(&problems);
        Some(Event::SourceErrors(problems))
    }
}
