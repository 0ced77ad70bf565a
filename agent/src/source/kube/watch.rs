//! One kind's list and watch, for as long as the agent runs.
//!
//! The protocol: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::{
    collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc, time, time::Duration,
};

use ::kube::Client;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};

use super::{
    backoff::{Backoff, spread, watch_seconds},
    current_errors::CurrentErrors,
    protocol::{self, Change},
    request::{self, Lines},
    selection::{Page, Selection},
    server_addresses::Route,
    watch_error::{Failure, Remedy},
};
use crate::{
    model::object::{Kind, ObjectName},
    source::{
        Arrived, Event, Sourced,
        decode::Received,
        stats::{KindStats, SourceStats, count},
    },
};

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// A streaming list that brings nothing for this long will not end: some stores behind the API
/// (kine) and servers that ignore `sendInitialEvents` never send the bookmark at its end.
const LIST_STALL: Duration = Duration::from_secs(20);
/// A watch that brings nothing for this long is dead. The API server sends a bookmark about once a
/// minute; with one that sends none this only causes a cheap resumption.
const WATCH_STALL: Duration = Duration::from_secs(100);
/// A watch that was cut off after this long was no failing start, and what follows is a first
/// failure again.
const LASTING: Duration = Duration::from_secs(1);
/// A watch may end this much before the time it was asked for and still be in order.
const EARLY: Duration = Duration::from_secs(5);
/// How many ends in a row that belong to the protocol are followed up without a word: a watch that
/// is cut off and whose version is then gone is two.
const GRACE: u32 = 2;
/// So many resumed watches in a row that were accepted and brought nothing where something had to
/// come, and the version is not trusted any more: the store behind the server may have been put back
/// from a backup, and has yet to reach it.
const FRUITLESS: u32 = 3;

/// What the watches of all kinds use.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) route: Arc<Route>,
    pub(super) events: mpsc::Sender<Arrived>,
    pub(super) current_errors: CurrentErrors,
    pub(super) stats: Arc<SourceStats>,
    /// Wakes the watches that wait for a server that cannot be reached: one of them has reached it.
    pub(super) back: Notify,
}

/// Where one kind's watch stands.
pub(super) struct Watch<'a> {
    selection: Selection,
    shared: &'a Shared,
    /// The resource version up to which everything was sent; `None` when a list must come first.
    version: Option<String>,
    /// Ask for the list as the beginning of the watch (KEP-3157; on by default since Kubernetes
    /// 1.34), so that neither side holds the whole list at once.
    streaming: Streaming,
    /// Streaming lists in a row that did not end.
    stalls: u32,
    /// This server sends bookmarks, so silence means something.
    has_bookmarks: bool,
    /// The last watch went silent: the next one must say something before it counts as working.
    silenced: bool,
    /// The present attempt is a watch that works.
    working: bool,
    /// Something came in the present attempt.
    heard: bool,
    /// A failure was told and the watch has not worked since.
    failing: bool,
    /// No list was received yet.
    is_first: bool,
    /// Who answered in the present attempt.
    server: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streaming {
    Yes,
    /// The next list comes in pages, the one after that is streamed again.
    NotNow,
    No,
}

/// Why an attempt ended.
enum End {
    Failed(Failure),
    /// Nobody receives the events any more.
    Unheard,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<mpsc::error::SendError<Arrived>> for End {
    fn from(_: mpsc::error::SendError<Arrived>) -> Self {
        Self::Unheard
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(selection: Selection, shared: &'a Shared) -> Self {
        Self {
            selection,
            shared,
            version: None,
            streaming: Streaming::Yes,
            stalls: 0,
            has_bookmarks: false,
            silenced: false,
            working: false,
            heard: false,
            failing: false,
            is_first: true,
            server: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        // In a row: ends of any kind, and resumed watches that brought nothing.
        let (mut failures, mut fruitless) = (0_u32, 0_u32);
        let mut was_expected = true;
        loop {
            let (started, resumed) = (Instant::now(), self.version.is_some());
            let seconds = watch_seconds();
            let failure = match self.attempt(seconds).await {
                Ok(never) => match never {},
                Err(End::Failed(failure)) => failure,
                Err(End::Unheard) => return,
            };
            self.stats().set_connected(false);
            let lasted = started.elapsed();
            if self.is_in_order(&failure, lasted, seconds) {
                // Only this agent's watch ends now, so there is no crowd to stay clear of.
                (failures, backoff) = (0, Backoff::default());
                continue;
            }
            if self.heard {
                fruitless = 0;
            } else if resumed && matches!(failure, Failure::Event(_) | Failure::Silent(_)) {
                fruitless += 1;
            }
            let listing = self.version.is_none();
            if !listing && lasted >= LASTING && (self.heard || failure.is_expected()) {
                (failures, backoff) = (0, Backoff::default());
            }
            // A server that restarted answers that the version is gone. That is not one more failure
            // to reach it, but the first word of one that is back.
            let expected = failure.is_expected();
            if expected && !was_expected {
                (failures, backoff) = (0, Backoff::default());
            }
            was_expected = expected;
            let streams = listing && self.streaming == Streaming::Yes;
            match failure.remedy(&self.selection, listing, streams) {
                Remedy::ListInPages => {
                    // A server that hung once may well have streaming lists.
                    let hung = matches!(failure, Failure::ListStalled) && self.stalls == 0;
                    self.streaming = if hung { Streaming::NotNow } else { Streaming::No };
                    self.stalls += 1;
                    tracing::info!(kind = %self.kind(), server = %failure, "listing in pages");
                    continue;
                }
                Remedy::DropFields => {
                    tracing::info!(kind = %self.kind(), server = %failure,
                        "the API server does not know the field selector; filtering here");
                    self.selection.fields = None;
                    continue;
                }
                Remedy::Relist => self.version = None,
                Remedy::Resume if fruitless >= FRUITLESS => {
                    (self.version, fruitless) = (None, 0);
                }
                Remedy::Resume => {}
            }
            if self.pause(&failure, failures, &mut backoff).await.is_err() {
                return;
            }
            failures += 1;
        }
    }

    /// The server ended the watch when it was asked to, or was silent where that means nothing.
    fn is_in_order(&self, failure: &Failure, lasted: Duration, seconds: u32) -> bool {
        match failure {
            Failure::Ended => lasted + EARLY >= Duration::from_secs(seconds.into()),
            Failure::Silent(_) => self.working && !self.has_bookmarks,
            _ => false,
        }
    }

    /// Tells of the failure and waits. A watch that was cut off or whose version is gone is taken up
    /// soon and without a word, unless that goes on and on.
    async fn pause(
        &mut self,
        failure: &Failure,
        failures: u32,
        backoff: &mut Backoff,
    ) -> Result<(), mpsc::error::SendError<Arrived>> {
        if !matches!(failure, Failure::Cut | Failure::Ended) {
            count(&self.stats().errors);
        }
        self.silenced = matches!(failure, Failure::Silent(_));
        if failure.is_of_reach() {
            // Another server may be there. Without its address, it is the one that was reached last.
            self.shared.route.failed(self.server);
        }
        if failure.is_expected() && failures < GRACE {
            tracing::debug!(kind = %self.kind(), %failure, "taking up the watch again");
            sleep(spread()).await;
            return Ok(());
        }
        let problem = failure.problem(self.kind(), self.hint(failure));
        // Whoever receives the trouble tells it; this shows each try.
        tracing::debug!("{problem}");
        self.failing = true;
        self.shared.current_errors.set(self.kind(), vec![problem]).await?;
        let wait = sleep(backoff.next(failure.retry_after()));
        if failure.is_of_reach() {
            // Another kind's watch may find the server back before this one would.
            tokio::select! {
                () = wait => {}
                () = self.shared.back.notified() => sleep(spread()).await,
            }
        } else {
            wait.await;
        }
        Ok(())
    }

    /// Lists if that is needed, then watches until that fails or ends.
    async fn attempt(&mut self, seconds: u32) -> Result<Infallible, End> {
        (self.working, self.heard, self.server) = (false, false, None);
        if self.version.is_none() && self.streaming != Streaming::Yes {
            self.list().await?;
        }
        let initial = self.version.is_none();
        // An empty version with initial events asks for the most recent state, not for what a
        // lagging server happens to hold: an agent that adopted its maps must not go back in time.
        let version = self.version.clone().unwrap_or_default();
        let (client, selection) = (&self.shared.client, &self.selection);
        let mut lines = request::watch(client, selection, initial, &version, seconds).await?;
        self.server = lines.server;
        if initial {
            self.receive_list(&mut lines).await?;
        }
        if !self.silenced {
            self.works().await?;
        }
        loop {
            let change = self.change(lines.next(WATCH_STALL).await?)?;
            let arrived = lines.arrived();
            self.works().await?;
            self.take(change, arrived).await?;
        }
    }

    /// The list in pages, for servers that cannot stream it. Consistent: all pages are of the
    /// version that the first one was. The first list is whatever the server has in memory, as
    /// kube-proxy's is: all nodes that start at once shall not read the store behind the server.
    async fn list(&mut self) -> Result<(), End> {
        let mut objects = Objects::new();
        let mut page = if self.is_first { Page::Cached } else { Page::FIRST };
        loop {
            let asked = request::page(&self.shared.client, &self.selection, &page).await;
            let text = match asked {
                // Large objects: fewer of them are to be in memory at once.
                Err(Failure::LargePage) => {
                    page = page.smaller().ok_or(Failure::LargePage)?;
                    continue;
                }
                text => text?,
            };
            self.stats().heard();
            let received = protocol::page(self.kind(), &text)?;
            received.objects.into_iter().for_each(|received| put(&mut objects, received));
            match received.token {
                Some(token) => page = page.next(token),
                None => {
                    let version = received.version.ok_or(Failure::NoVersion)?;
                    self.replace(objects, version, time::Instant::now()).await?;
                    if self.streaming == Streaming::NotNow {
                        self.streaming = Streaming::Yes;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The initial events of a streaming list, up to the bookmark that ends them. Changes that
    /// happen meanwhile may be among them.
    async fn receive_list(&mut self, lines: &mut Lines) -> Result<(), End> {
        let mut objects = Objects::new();
        loop {
            let line = match lines.next(LIST_STALL).await {
                Err(Failure::Silent(_)) => return Err(Failure::ListStalled.into()),
                line => line?,
            };
            match self.change(line)? {
                Change::Apply(received) => put(&mut objects, received),
                Change::Delete(reference, _) => {
                    objects.remove(&reference.name);
                }
                Change::Bookmark(mark) => {
                    let annotations = mark.annotations.unwrap_or_default();
                    if annotations.contains_key(INITIAL_EVENTS_END) {
                        if mark.resource_version.is_empty() {
                            return Err(Failure::NoVersion.into());
                        }
                        self.stalls = 0;
                        let version = mark.resource_version;
                        return self.replace(objects, version, lines.arrived()).await;
                    }
                }
            }
        }
    }

    async fn replace(
        &mut self,
        objects: Objects,
        version: String,
        at: time::Instant,
    ) -> Result<(), End> {
        tracing::debug!(kind = %self.kind(), objects = objects.len(), version, "listed");
        let objects = objects.into_values().collect();
        let event = Event::Replace(self.kind(), objects);
        self.shared.events.send(Arrived { events: vec![event], at }).await?;
        count(&self.stats().relisted);
        self.is_first = false;
        self.version = Some(version);
        Ok(())
    }

    /// Decodes a line of a watch.
    fn change(&mut self, line: &[u8]) -> Result<Change, Failure> {
        let change = protocol::change(self.kind(), line)?;
        self.heard = true;
        self.stats().heard();
        self.has_bookmarks |= matches!(change, Change::Bookmark(_));
        Ok(change)
    }

    async fn take(&mut self, change: Change, at: time::Instant) -> Result<(), End> {
        let arrived = |event| Arrived { events: vec![event], at };
        let version = match change {
            Change::Apply(Received { sourced: Some(object), version, .. }) => {
                count(&self.stats().applied);
                self.shared.events.send(arrived(Event::Apply(object))).await?;
                version
            }
            // It stopped being ours.
            Change::Apply(Received { reference, version, .. })
            | Change::Delete(reference, version) => {
                count(&self.stats().deleted);
                self.shared.events.send(arrived(Event::Delete(reference))).await?;
                version
            }
            Change::Bookmark(mark) => mark.resource_version,
        };
        // Only after the event was sent: what is not sent must come again.
        if !version.is_empty() {
            self.version = Some(version);
        }
        Ok(())
    }

    /// Tells, once per attempt, that the watch works.
    async fn works(&mut self) -> Result<(), End> {
        if self.working {
            return Ok(());
        }
        (self.working, self.silenced) = (true, false);
        self.stats().heard();
        self.stats().set_connected(true);
        if std::mem::take(&mut self.failing) {
            tracing::info!(kind = %self.kind(), "the watch works again");
            self.shared.back.notify_waiters();
        }
        Ok(self.shared.current_errors.set(self.kind(), Vec::new()).await?)
    }

    /// What would help, beside what the failure itself says.
    fn hint(&self, failure: &Failure) -> Option<&'static str> {
        self.shared.route.hint().filter(|_| failure.is_of_reach())
    }

    fn kind(&self) -> Kind {
        self.selection.kind
    }

    fn stats(&self) -> &KindStats {
        self.shared.stats.kind(self.kind())
    }
}

/// An incomplete list, by name: an object may come more than once.
type Objects = HashMap<ObjectName, Sourced>;

fn put(objects: &mut Objects, Received { reference, sourced, .. }: Received) {
    match sourced {
        Some(object) => objects.insert(reference.name, object),
        None => objects.remove(&reference.name),
    };
}
