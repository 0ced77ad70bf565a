//! Network namespaces inside pods that connect to services: finds and reports them, and excludes them if
//! configured.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinError;

use super::background_job::BackgroundJob;
use crate::{
    cgroups,
    dataplane::{Dataplane, DataplaneError, NestedNamespaces, NetworkNamespaces},
    helper::Helper,
    log_on_change::LogOnChange,
    model::{
        index::Index,
        nested::{Dialler, nested},
    },
    status,
};

/// How often to search again if no new namespace connects: nothing reports that a container runtime has
/// mounted or unmounted one.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Nested namespaces' cookies, with the uids of their pods.
type Found = BTreeMap<u64, Arc<str>>;

pub struct Nested {
    what: NestedNamespaces,
    search: Option<Arc<Mutex<Search>>>,
    job: BackgroundJob<anyhow::Result<Option<Found>>>,
    log: LogOnChange,
    logged: BTreeSet<Arc<str>>,
}

/// The state of a search; a search blocks.
struct Search {
    recorded: NetworkNamespaces,
    helper: Helper,
    /// The cgroup that pods are below.
    top: PathBuf,
    known: HashSet<u64>,
    ended: Option<Instant>,
}

/// The result of a search.
pub struct SearchResult(Result<anyhow::Result<Option<Found>>, JoinError>);

impl Nested {
    /// Without a helper there is no search.
    pub fn new(
        what: NestedNamespaces,
        dataplane: &Dataplane,
        helper: Option<Helper>,
    ) -> Result<Self, DataplaneError> {
        let recorded = dataplane.network_namespaces()?;
        let top = dataplane.cgroup().to_owned();
        let search = helper
            .map(|helper| Search { recorded, helper, top, known: HashSet::new(), ended: None })
            .map(|search| Arc::new(Mutex::new(search)));
        Ok(Self {
            what,
            search,
            job: BackgroundJob::default(),
            log: LogOnChange::new("cannot find network namespaces that are nested in pods"),
            logged: BTreeSet::new(),
        })
    }

    /// Starts a search, unless one runs.
    pub fn start_search(&mut self) {
        let Some(search) = &self.search else { return };
        let search = Arc::clone(search);
        self.job.start(move || {
            // After a panic the state is still valid: each search reads all of it again.
            search.lock().unwrap_or_else(PoisonError::into_inner).run()
        });
    }

    /// Waits for the search to end; forever if none runs.
    pub async fn search_ended(&mut self) -> SearchResult {
        SearchResult(self.job.ended().await)
    }

    /// Applies the result of a search. Returns the entries for the status if they may have changed.
    pub fn apply(
        &mut self,
        SearchResult(result): SearchResult,
        index: &Index,
    ) -> Option<Vec<status::NestedNamespaces>> {
        let found = result.context("searching network namespaces").flatten();
        self.log.record(found.as_ref().map(|_| ()).map_err(AsRef::as_ref));
        let found = found.ok().flatten()?;
        let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for uid in found.into_values() {
            *counts.entry(uid).or_default() += 1;
        }
        let is_excluded = self.what == NestedNamespaces::Exclude;
        let pods = counts.iter().map(|(uid, &namespaces)| status::NestedNamespaces {
            pod: status::PodRef::new(index.pod_of(uid).map(|pod| &pod.name), uid),
            namespaces,
            excluded: is_excluded,
        });
        let pods: Vec<_> = pods.collect();
        for (uid, nested) in counts.keys().zip(&pods) {
            if self.logged.insert(Arc::clone(uid)) {
                let what = if is_excluded { "not translated" } else { "translated" };
                tracing::info!(pod = %nested.pod, "network namespaces inside a pod connect to services: {what}");
            }
        }
        self.logged.retain(|uid| counts.contains_key(uid));
        Some(pods)
    }
}

impl Search {
    /// `None` if nothing can have changed since the last search.
    fn run(&mut self) -> anyhow::Result<Option<Found>> {
        // In this order: a pod's namespace is mounted before any process in it connects.
        let recorded = self.recorded.read()?;
        let cookies: HashSet<u64> = recorded.iter().map(|(cookie, _)| *cookie).collect();
        let is_fresh = self.ended.is_some_and(|ended| ended.elapsed() < MAX_AGE);
        if is_fresh && cookies == self.known {
            return Ok(None);
        }
        let tree = cgroups::Tree::read(&self.top).context("reading the cgroup hierarchy")?;
        let pods: HashMap<u64, Arc<str>> =
            tree.pods.into_iter().map(|pod| (pod.id, pod.uid.into())).collect();
        let own = self.helper.namespaces()?.into_iter().collect();
        let diallers: Vec<Dialler> = recorded
            .iter()
            .map(|(cookie, namespace)| Dialler {
                cookie: *cookie,
                cgroups: namespace.ancestors.to_vec(),
            })
            .collect();
        let found = nested(&diallers, &pods, &own);
        for (cookie, namespace) in recorded {
            let excluded = u64::from(found.contains_key(&cookie));
            if namespace.excluded != excluded {
                self.recorded.set_excluded(cookie, namespace, excluded)?;
            }
        }
        self.known = cookies;
        self.ended = Some(Instant::now());
        Ok(Some(found))
    }
}
