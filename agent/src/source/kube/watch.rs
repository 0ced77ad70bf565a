//! Lists and watches one kind, as long as the agent runs.
//!
//! The protocol: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.
//! [`Watch::run`] repeats attempts; an attempt ([`Watch::attempt`]) lists if there is no version to resume from, then
//! watches until that fails or ends. `list.rs` receives lists, `retry.rs` decides what follows an attempt.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ::kube::Client;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tracing::Instrument as _;

use super::{
    attempt::{Attempt, Phase, Start},
    backoff::spread,
    current_errors::CurrentErrors,
    list::{self, List},
    list_strategy::ListStrategy,
    protocol::{self, WatchEvent},
    request::{self, Lines},
    retry::{Bookmarks, Pause, Retries},
    selection::{Page, Selection, WatchFrom},
    server_addresses::ServerAddresses,
    watch_error::{Recovery, WatchError},
};
use crate::{
    model::object::Kind,
    source::{
        Arrived, Event,
        decode::Received,
        stats::{KindStats, SourceStats, count},
    },
};

/// A watch without an event for this long is dead. The API server sends a bookmark about once a minute. If a server
/// sends none, the only cost is that the watch is resumed.
const STALL: Duration = Duration::from_secs(100);

/// What the watches of all kinds share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) addresses: Arc<ServerAddresses>,
    pub(super) events: mpsc::Sender<Arrived>,
    pub(super) errors: CurrentErrors,
    pub(super) stats: Arc<SourceStats>,
    /// Wakes watches that wait because the server cannot be reached: another watch has reached it.
    pub(super) reached: Notify,
}

/// The state of one kind's watch.
pub(super) struct Watch<'a> {
    selection: Selection,
    shared: &'a Shared,
    /// Everything up to this resource version was sent. `None`: list first.
    version: Option<String>,
    list_strategy: ListStrategy,
    first_list: FirstList,
    retries: Retries,
    bookmarks: Bookmarks,
    health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstList {
    Due,
    Received,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// An error was reported since the watch last worked.
    Failing,
    /// The last watch went silent: the next one works only when an event comes.
    Silent,
}

/// Why an attempt ended.
enum End {
    Failed(WatchError),
    /// The receiver of the events is closed.
    Closed,
}

impl From<WatchError> for End {
    fn from(error: WatchError) -> Self {
        Self::Failed(error)
    }
}

impl From<mpsc::error::SendError<Arrived>> for End {
    fn from(_: mpsc::error::SendError<Arrived>) -> Self {
        Self::Closed
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(selection: Selection, shared: &'a Shared) -> Self {
        Self {
            selection,
            shared,
            version: None,
            list_strategy: ListStrategy::default(),
            first_list: FirstList::Due,
            retries: Retries::default(),
            bookmarks: Bookmarks::NotSeen,
            health: Health::Good,
        }
    }

    /// Runs until the receiver of the events is closed. All its log lines are in a span with the kind. The span is an
    /// error span so that no log level leaves the kind out.
    pub(super) async fn run(mut self) {
        let span = tracing::error_span!("watch", kind = %self.kind());
        async {
            loop {
                let mut attempt = self.begin();
                let error = match self.attempt(&mut attempt).await {
                    Ok(never) => match never {},
                    Err(End::Failed(error)) => error,
                    Err(End::Closed) => return,
                };
                self.stats().disconnected();
                if self.retries.ended_in_order(&attempt, &error, self.bookmarks) {
                    continue;
                }
                self.retries.record(&attempt, &error);
                if self.recover(&attempt, &error) == Next::AtOnce {
                    continue;
                }
                if self.pause(&attempt, &error).await.is_err() {
                    return;
                }
            }
        }
        .instrument(span)
        .await;
    }

    fn begin(&self) -> Attempt {
        match &self.version {
            Some(_) => Attempt::new(Start::Resume, Phase::Watch),
            None if self.list_strategy.is_streaming() => {
                Attempt::new(Start::List, Phase::StreamingList)
            }
            None => Attempt::new(Start::List, Phase::PagedList),
        }
    }

    /// Lists if needed, then watches until that fails or ends.
    async fn attempt(&mut self, attempt: &mut Attempt) -> Result<Infallible, End> {
        if attempt.phase == Phase::PagedList {
            self.list_in_pages().await?;
            attempt.phase = Phase::Watch;
        }
        let mut lines = self.open(attempt).await?;
        if attempt.phase == Phase::StreamingList {
            self.receive_list(attempt, &mut lines).await?;
            attempt.phase = Phase::Watch;
        }
        if self.health != Health::Silent {
            self.works(attempt).await?;
        }
        loop {
            let event = self.decode(attempt, lines.next(STALL).await?)?;
            let read_at = lines.arrived();
            self.works(attempt).await?;
            self.send(event, read_at).await?;
        }
    }

    /// The first list is whatever the server has in memory, as kube-proxy's is, so that nodes that start together do not
    /// all read the store behind the server.
    async fn list_in_pages(&mut self) -> Result<(), End> {
        let first = match self.first_list {
            FirstList::Due => Page::Cached,
            FirstList::Received => Page::FIRST,
        };
        let list = list::in_pages(&self.shared.client, &self.selection, first, self.stats());
        let list = list.instrument(tracing::error_span!("list", mode = "pages")).await?;
        self.replace(list).await?;
        self.list_strategy.listed_in_pages();
        Ok(())
    }

    async fn receive_list(&mut self, attempt: &mut Attempt, lines: &mut Lines) -> Result<(), End> {
        let mut decode = |line: &[u8]| self.decode(attempt, line);
        let list = list::streamed(lines, &mut decode);
        let list = list.instrument(tracing::error_span!("list", mode = "stream")).await?;
        self.list_strategy.streamed();
        self.replace(list).await
    }

    async fn open(&self, attempt: &mut Attempt) -> Result<Lines, WatchError> {
        // A streaming list asks for the most recent state, not for what a server that lags behind has in memory: an
        // agent that restored its maps must not go back in time.
        let from = self.version.as_deref().map_or(WatchFrom::InitialEvents, WatchFrom::Version);
        let (client, selection) = (&self.shared.client, &self.selection);
        let lines = request::watch(client, selection, from, attempt.watch_seconds).await?;
        attempt.server = lines.server;
        Ok(lines)
    }

    /// Decodes a line of a watch.
    fn decode(&mut self, attempt: &mut Attempt, line: &[u8]) -> Result<WatchEvent, WatchError> {
        let event = protocol::watch_event(self.kind(), line)?;
        attempt.has_events = true;
        self.stats().received();
        if matches!(event, WatchEvent::Bookmark(_)) {
            self.bookmarks = Bookmarks::Seen;
        }
        Ok(event)
    }

    async fn replace(&mut self, List { objects, version, read_at }: List) -> Result<(), End> {
        tracing::debug!(objects = objects.len(), version, "listed");
        let events = vec![Event::Replace(self.kind(), objects)];
        self.shared.events.send(Arrived { events, at: read_at }).await?;
        count(&self.stats().relisted);
        self.first_list = FirstList::Received;
        self.version = Some(version);
        Ok(())
    }

    async fn send(&mut self, event: WatchEvent, read_at: std::time::Instant) -> Result<(), End> {
        let arrived = |event| Arrived { events: vec![event], at: read_at };
        let version = match event {
            WatchEvent::Apply(Received { sourced: Some(object), version, .. }) => {
                count(&self.stats().applied);
                self.shared.events.send(arrived(Event::Apply(object))).await?;
                version
            }
            // A change can make an object one that the agent does not use.
            WatchEvent::Apply(Received { reference, version, .. })
            | WatchEvent::Delete(reference, version) => {
                count(&self.stats().deleted);
                self.shared.events.send(arrived(Event::Delete(reference))).await?;
                version
            }
            WatchEvent::Bookmark(bookmark) => bookmark.resource_version,
        };
        // After the event was sent: one that was not sent must come again.
        if !version.is_empty() {
            self.version = Some(version);
        }
        Ok(())
    }

    /// Reports that the watch works, once for each attempt.
    async fn works(&mut self, attempt: &mut Attempt) -> Result<(), End> {
        if attempt.is_working {
            return Ok(());
        }
        attempt.is_working = true;
        self.stats().received();
        self.stats().connected();
        if std::mem::replace(&mut self.health, Health::Good) != Health::Good {
            tracing::info!("the watch works again");
            self.shared.reached.notify_waiters();
        }
        Ok(self.shared.errors.set(self.kind(), Vec::new()).await?)
    }

    /// Changes what the next attempt does, so that it does not end the same way.
    fn recover(&mut self, attempt: &Attempt, error: &WatchError) -> Next {
        match error.recovery(&self.selection, attempt.phase) {
            Recovery::ListInPages => {
                tracing::info!(%error, "the server does not stream lists: listing in pages");
                self.list_strategy.streaming_failed(error);
                return Next::AtOnce;
            }
            Recovery::DropFields => {
                tracing::info!(%error, "the server does not know the field selector: filtering in the agent");
                self.selection.fields = None;
                return Next::AtOnce;
            }
            Recovery::Relist => self.version = None,
            Recovery::Resume if self.retries.gives_up_version() => self.version = None,
            Recovery::Resume => {}
        }
        Next::AfterPause
    }

    /// Reports the error if it must be reported, and waits.
    async fn pause(
        &mut self,
        attempt: &Attempt,
        error: &WatchError,
    ) -> Result<(), mpsc::error::SendError<Arrived>> {
        if !matches!(error, WatchError::Cut | WatchError::Ended) {
            count(&self.stats().errors);
        }
        if error.is_of_reach() {
            // Without the server's address, it is the one that was reached last.
            self.shared.addresses.failed(attempt.server);
        }
        let wait = match self.retries.pause(error) {
            Pause::Short(wait) => {
                tracing::debug!(%error, "resuming the watch");
                if self.health == Health::Silent {
                    self.health = Health::Failing;
                }
                sleep(wait).await;
                return Ok(());
            }
            Pause::Backoff(wait) => wait,
        };
        self.health = match error {
            WatchError::Silent(_) => Health::Silent,
            _ => Health::Failing,
        };
        let input_error = error.input_error(self.kind(), self.hint(error));
        // The control loop logs a change of the current errors; this shows each attempt.
        tracing::debug!(?wait, "{input_error}");
        self.shared.errors.set(self.kind(), vec![input_error]).await?;
        if error.is_of_reach() {
            // Another kind's watch may reach the server before this wait ends.
            tokio::select! {
                () = sleep(wait) => {}
                () = self.shared.reached.notified() => sleep(spread()).await,
            }
        } else {
            sleep(wait).await;
        }
        Ok(())
    }

    /// What may help, beyond what the error itself says.
    fn hint(&self, error: &WatchError) -> Option<&'static str> {
        self.shared.addresses.hint().filter(|_| error.is_of_reach())
    }

    fn kind(&self) -> Kind {
        self.selection.kind
    }

    fn stats(&self) -> &'a KindStats {
        self.shared.stats.kind(self.selection.kind)
    }
}

/// When the next attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    AtOnce,
    AfterPause,
}
