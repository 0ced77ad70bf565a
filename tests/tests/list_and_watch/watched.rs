//! A running source, and the state that an agent would have from it.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use sockline::{
    model::{
        exclusion::{ExcludedPod, Policy},
        index::Index,
        node_addresses::NodePortScope,
        object::Kind,
    },
    source::{
        Arrived, Event, SourceStats, Sourced,
        kube::{Watched as WatchedObjects, watch},
    },
};
use sockline_testbed::api::Api;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{expected::Expected, in_process, source_state::SourceState};

pub(crate) const NODE: &str = "node-a";
/// Longer than any wait of the source: a server that does not answer, then the longest backoff. Of
/// tokio's time, which a test does not wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(400);

/// Dereferences to the [`SourceState`].
pub(crate) struct Watched {
    pub(crate) stats: Arc<SourceStats>,
    events: mpsc::Receiver<Arrived>,
    pub(crate) stop: Option<DropGuard>,
    pub(crate) index: Index,
    excluded_pods: BTreeMap<Arc<str>, ExcludedPod>,
    state: SourceState,
}

impl Deref for Watched {
    type Target = SourceState;

    fn deref(&self) -> &SourceState {
        &self.state
    }
}

impl Watched {
    pub(crate) fn start(api: &Api) -> Self {
        Self::with(in_process::client(api))
    }

    pub(crate) fn with(client: kube::Client) -> Self {
        let (sender, events) = mpsc::channel(64);
        let (stats, stop) = (Arc::new(SourceStats::default()), CancellationToken::new());
        let (counted, stopped) = (Arc::clone(&stats), stop.clone());
        tokio::spawn(async move {
            let objects = WatchedObjects { node: NODE, node_ports: NodePortScope::ThisNode };
            watch((client, Arc::default()), objects, sender, counted, stopped).await;
        });
        Self {
            stats,
            events,
            stop: Some(stop.drop_guard()),
            index: Index::new(NODE),
            excluded_pods: BTreeMap::new(),
            state: SourceState::empty(),
        }
    }

    /// Receives until `done`, or panics with what was seen.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            // Some states come without an event.
            let look = Instant::now() + Duration::from_millis(50);
            match timeout_at(look, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) => panic!("the source ended before {what}; {}", self.seen()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => panic!("no {what} within {PATIENCE:?}; {}", self.seen()),
            }
        }
    }

    pub(crate) async fn until_listed(&mut self) {
        self.until("list of every kind", |watched| watched.has_all_lists()).await;
    }

    pub(crate) async fn until_source_error(&mut self, about: &str) {
        self.until(about, |watched| watched.error_text().contains(about)).await;
    }

    pub(crate) async fn until_quiet(&mut self) {
        self.until("end of the errors", |watched| watched.errors.is_empty()).await;
    }

    /// Waits until no more events can arrive.
    pub(crate) async fn until_end(&mut self) {
        let end = async { while self.events.recv().await.is_some() {} };
        assert!(timeout(PATIENCE, end).await.is_ok(), "the source goes on after {PATIENCE:?}");
    }

    /// Advances the clock and receives events.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) = timeout_at(until, self.events.recv()).await {
            self.take(event.expect("the source goes on"));
        }
    }

    /// Reads the events that are there without waiting for more.
    pub(crate) fn take_in(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }

    /// Waits until the plan and all other state is that of these objects; else returns the difference.
    pub(crate) async fn reach(&mut self, expected: &Expected) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let difference = self.difference(expected);
            if difference.is_none() {
                return Ok(());
            }
            let look = Instant::now() + Duration::from_millis(200);
            match timeout_at(look, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return Err("the source ended".into()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(difference.unwrap_or_default()),
            }
            self.take_in();
        }
    }

    /// Waits until the state is that of the server, and every watch is open.
    pub(crate) async fn catch_up(&mut self, api: &Api) {
        if let Err(difference) = self.reach(&Expected::of(api)).await {
            panic!("{difference}\n{}", self.seen());
        }
        self.until("open watches", |watched| {
            Kind::ALL.iter().all(|kind| watched.stats.kind(*kind).is_connected())
        })
        .await;
    }

    pub(crate) fn difference(&mut self, expected: &Expected) -> Option<String> {
        if let Some(excluded_pods) = self.index.excluded_pods(&Policy::default()) {
            self.excluded_pods = excluded_pods;
        }
        if !self.index.synced() {
            return Some(format!("not synced: only {:?} were listed", self.listed));
        }
        expected.difference(&self.index.plan(), &self.index.input_errors(), &self.excluded_pods)
    }

    pub(crate) fn services(&self) -> Vec<&str> {
        let names = self.objects.keys().map(String::as_str);
        names.filter(|name| name.starts_with("Service ")).collect()
    }

    /// The names in each complete list of a kind, sorted.
    pub(crate) fn replaced(&self, kind: Kind) -> Vec<Vec<String>> {
        let lists = self.log.iter().filter_map(|event| match event {
            Event::Replace(of, objects) if *of == kind => Some(objects),
            _ => None,
        });
        let names = |list: &Vec<Sourced>| {
            let mut names: Vec<_> =
                list.iter().map(|o| o.reference.name.name.to_string()).collect();
            names.sort();
            names
        };
        lists.map(names).collect()
    }

    pub(crate) fn never_failed(&self) {
        let failed = self.log.iter().any(|event| matches!(event, Event::SourceErrors(_)));
        assert!(!failed, "{:?}", self.log);
    }

    fn take(&mut self, Arrived { events, .. }: Arrived) {
        for event in events {
            self.index.apply(event.clone());
            self.state.apply(event);
        }
    }

    fn seen(&self) -> String {
        format!("known {:?}, errors {:?}", self.objects.keys(), self.errors)
    }
}
