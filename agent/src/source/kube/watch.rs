//! One kind's list and watch, for as long as the agent runs.
//!
//! The protocol: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::{fmt::Debug, sync::Arc, time::Duration};

use ::kube::{
    Api, Resource, ResourceExt,
    core::WatchEvent,
    runtime::{utils::Backoff, watcher::DefaultBackoff},
};
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    failure::{Failure, Remedy},
    selection::Selection,
};
use crate::{
    model::object::{Kind, ObjectName, ObjectRef},
    source::{
        Event, Sourced,
        stats::{KindStats, SourceStats, count},
        troubles::Troubles,
    },
};

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// A streaming list that brings nothing for this long will not end: some stores behind the API
/// (kine) and servers that ignore `sendInitialEvents` never send the bookmark at its end.
const LIST_STALL: Duration = Duration::from_secs(20);
/// A quiet watch is resumed after this long. The server ends it after 290 s (`timeoutSeconds`), so
/// past that only a dead connection is silent; the client's read timeout notices most of them sooner.
const WATCH_STALL: Duration = Duration::from_secs(295);
/// An attempt that lasted this long was no failing start, and what follows is a first failure again.
const LASTING: Duration = Duration::from_secs(1);
/// How many ends in a row that belong to the protocol are followed up at once: a watch that is cut
/// off and whose version is then gone is two.
const GRACE: u32 = 2;

/// What the watches of all kinds use.
pub(super) struct Shared {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) troubles: Troubles,
    pub(super) stats: Arc<SourceStats>,
}

/// Where one kind's watch stands.
pub(super) struct Watch<'a, K> {
    api: Api<K>,
    selection: Selection,
    convert: fn(K) -> Option<Sourced>,
    shared: &'a Shared,
    /// The resource version up to which everything was sent; `None` when a list must come first.
    version: Option<String>,
    /// A failure was told and the watch has not worked since.
    failing: bool,
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

impl From<::kube::Error> for End {
    fn from(error: ::kube::Error) -> Self {
        Self::Failed(match error {
            // A broken or timed out connection; whether that is worth telling shows when the next
            // one is tried.
            ::kube::Error::ReadEvents(_) => Failure::Cut,
            error => Failure::Request(error),
        })
    }
}

impl From<mpsc::error::SendError<Event>> for End {
    fn from(_: mpsc::error::SendError<Event>) -> Self {
        Self::Unheard
    }
}

impl<'a, K> Watch<'a, K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(
        api: Api<K>,
        selection: Selection,
        convert: fn(K) -> Option<Sourced>,
        shared: &'a Shared,
    ) -> Self {
        Self { api, selection, convert, shared, version: None, failing: false }
    }

    pub(super) async fn run(mut self) {
        // From 0.8 to 30 s, doubling, with jitter: client-go's.
        let mut backoff = DefaultBackoff::default();
        let mut failures = 0_u32;
        loop {
            let started = Instant::now();
            let initial = self.version.is_none();
            let failure = match self.attempt().await {
                // The server ends every watch after some minutes.
                Ok(()) => Failure::Cut,
                Err(End::Failed(failure)) => failure,
                Err(End::Unheard) => return,
            };
            if started.elapsed() >= LASTING {
                failures = 0;
                backoff.reset();
            }
            let initial = initial && self.version.is_none();
            match failure.remedy(&self.selection, initial) {
                Remedy::ListInPages => {
                    tracing::info!(kind = %self.kind(), server = %failure,
                        "the API server has no streaming lists; listing in pages");
                    self.selection.streaming = false;
                    continue;
                }
                Remedy::DropFields => {
                    tracing::info!(kind = %self.kind(), server = %failure,
                        "the API server does not know the field selector; filtering here");
                    self.selection.fields = None;
                    continue;
                }
                Remedy::Relist => self.version = None,
                Remedy::Resume => {}
            }
            if self.pause(&failure, failures, &mut backoff).await.is_err() {
                return;
            }
            failures += 1;
        }
    }

    /// Tells of the failure and waits, as far as it deserves that: a watch that was cut off or whose
    /// version is gone is taken up at once, unless that goes on and on.
    async fn pause(
        &mut self,
        failure: &Failure,
        failures: u32,
        backoff: &mut DefaultBackoff,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let expected = match failure {
            Failure::Cut => true,
            Failure::Event(status) => status.code == 410,
            Failure::Request(::kube::Error::Api(status)) => status.code == 410,
            _ => false,
        };
        if !matches!(failure, Failure::Cut) {
            count(&self.stats().errors);
        }
        if expected && failures < GRACE {
            tracing::debug!(kind = %self.kind(), %failure, "taking up the watch again");
            return Ok(());
        }
        let problem = failure.problem(self.kind());
        // Whoever receives the trouble tells it; this shows each try.
        tracing::debug!("{problem}");
        self.failing = true;
        self.shared.troubles.set(self.kind(), vec![problem]).await?;
        sleep(backoff.next().unwrap_or(Duration::from_secs(30))).await;
        Ok(())
    }

    /// Lists if that is needed, then watches. `Ok` when the server ended the watch.
    async fn attempt(&mut self) -> Result<(), End> {
        if self.version.is_none() && !self.selection.streaming {
            self.list().await?;
        }
        let initial = self.version.is_none();
        // An empty version with initial events asks for the most recent state, not for what a
        // lagging server happens to hold: an agent that adopted its maps must not go back in time.
        let version = self.version.clone().unwrap_or_default();
        let stream = self.api.watch(&self.selection.watch(initial), &version).await?;
        let mut stream = std::pin::pin!(stream);
        if initial {
            self.receive_list(&mut stream).await?;
        }
        self.recovered().await?;
        while let Ok(Some(event)) = timeout(WATCH_STALL, stream.next()).await {
            self.handle(event?).await?;
        }
        Ok(())
    }

    /// The list in pages, for servers that cannot stream it. Consistent: all pages are of the
    /// version that the first one was.
    async fn list(&mut self) -> Result<(), End> {
        let mut objects = Vec::new();
        let mut token = None;
        loop {
            let page = self.api.list(&self.selection.list(token)).await?;
            objects.extend(page.items.into_iter().filter_map(self.convert));
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                return self.replace(objects, version.ok_or(Failure::NoVersion)?).await;
            }
        }
    }

    /// The initial events of a streaming list, up to the bookmark that ends them.
    async fn receive_list(
        &mut self,
        stream: &mut (impl Stream<Item = ::kube::Result<WatchEvent<K>>> + Unpin),
    ) -> Result<(), End> {
        let mut objects = Vec::new();
        loop {
            let Ok(event) = timeout(LIST_STALL, stream.next()).await else {
                return Err(Failure::ListStalled.into());
            };
            match event.ok_or(Failure::Cut)?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    objects.extend((self.convert)(object));
                }
                // There are none in a list; if one came, the list would not be what it says it is.
                WatchEvent::Deleted(_) => return Err(Failure::Cut.into()),
                WatchEvent::Bookmark(mark) => {
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                        return self.replace(objects, mark.metadata.resource_version).await;
                    }
                }
                WatchEvent::Error(status) => return Err(Failure::Event(status).into()),
            }
        }
    }

    async fn replace(&mut self, objects: Vec<Sourced>, version: String) -> Result<(), End> {
        tracing::debug!(kind = %self.kind(), objects = objects.len(), version, "listed");
        self.shared.events.send(Event::Replace(self.kind(), objects)).await?;
        count(&self.stats().relisted);
        self.version = Some(version);
        Ok(())
    }

    async fn handle(&mut self, event: WatchEvent<K>) -> Result<(), End> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.resource_version();
                let reference = self.reference(&object);
                match (self.convert)(object) {
                    Some(object) => self.apply(object).await?,
                    None => self.delete(reference).await?,
                }
                self.advance(version);
            }
            WatchEvent::Deleted(object) => {
                self.delete(self.reference(&object)).await?;
                self.advance(object.resource_version());
            }
            WatchEvent::Bookmark(mark) => self.advance(Some(mark.metadata.resource_version)),
            WatchEvent::Error(status) => return Err(Failure::Event(status).into()),
        }
        Ok(())
    }

    async fn apply(&self, object: Sourced) -> Result<(), End> {
        count(&self.stats().applied);
        Ok(self.shared.events.send(Event::Apply(object)).await?)
    }

    async fn delete(&self, reference: ObjectRef) -> Result<(), End> {
        count(&self.stats().deleted);
        Ok(self.shared.events.send(Event::Delete(reference)).await?)
    }

    /// Only after the event was sent: what is not sent must come again.
    fn advance(&mut self, version: Option<String>) {
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.version = Some(version);
        }
    }

    async fn recovered(&mut self) -> Result<(), End> {
        if std::mem::take(&mut self.failing) {
            tracing::info!(kind = %self.kind(), "the watch works again");
        }
        Ok(self.shared.troubles.set(self.kind(), Vec::new()).await?)
    }

    fn reference(&self, object: &K) -> ObjectRef {
        let name = ObjectName::new(object.namespace().unwrap_or_default(), object.name_any());
        ObjectRef { kind: self.kind(), name }
    }

    fn kind(&self) -> Kind {
        self.selection.kind
    }

    fn stats(&self) -> &KindStats {
        self.shared.stats.kind(self.kind())
    }
}
