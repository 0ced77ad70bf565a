//! Network namespaces inside pods that dial services: finding them, saying so, and excluding them where that
//! is wanted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::{
    cgroups,
    dataplane::{Dataplane, DataplaneError, NestedNamespaces, NotedNamespaces},
    helper::Helper,
    log_on_change::LogOnChange,
    model::{
        index::Index,
        nested::{Dialler, nested},
    },
    status,
};

/// Container runtimes mount and unmount namespaces without a word, so what is known is looked at again.
const AGAIN: Duration = Duration::from_secs(60);

/// Nested namespaces' cookies, with the uids of their pods.
type Found = BTreeMap<u64, Arc<str>>;

pub struct Nested {
    what: NestedNamespaces,
    work: Option<Arc<Mutex<Work>>>,
    job: Option<JoinHandle<anyhow::Result<Option<Found>>>>,
    log: LogOnChange,
    told: BTreeSet<Arc<str>>,
}

/// What a look takes; it blocks.
struct Work {
    noted: NotedNamespaces,
    helper: Helper,
    /// The cgroup that pods are below.
    top: PathBuf,
    known: HashSet<u64>,
    looked: Option<Instant>,
}

/// The end of a look.
pub struct Looked(Result<anyhow::Result<Option<Found>>, JoinError>);

impl Nested {
    /// Without a helper nothing can be told.
    pub fn new(
        what: NestedNamespaces,
        dataplane: &Dataplane,
        helper: Option<Helper>,
    ) -> Result<Self, DataplaneError> {
        let noted = dataplane.noted_namespaces()?;
        let top = dataplane.cgroup().to_owned();
        let work = helper
            .map(|helper| Work { noted, helper, top, known: HashSet::new(), looked: None })
            .map(|work| Arc::new(Mutex::new(work)));
        Ok(Self {
            what,
            work,
            job: None,
            log: LogOnChange::new("cannot tell which network namespaces are nested in pods"),
            told: BTreeSet::new(),
        })
    }

    /// Begins to look, unless that is under way.
    pub fn look(&mut self) {
        let Some(work) = self.work.as_ref().filter(|_| self.job.is_none()) else { return };
        let work = Arc::clone(work);
        self.job = Some(spawn_blocking(move || {
            // What a panic left behind is good: it is read anew.
            work.lock().unwrap_or_else(PoisonError::into_inner).look()
        }));
    }

    /// Returns when a look has ended; never if there is none.
    pub async fn looked(&mut self) -> Looked {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let looked = job.await;
        self.job = None;
        Looked(looked)
    }

    /// Takes in what a look has found: for status, if that is news.
    pub fn take_in(
        &mut self,
        Looked(looked): Looked,
        index: &Index,
    ) -> Option<Vec<status::NestedNamespaces>> {
        let found = looked.context("looking at network namespaces").flatten();
        self.log.record(found.as_ref().map(|_| ()).map_err(AsRef::as_ref));
        let found = found.ok().flatten()?;
        let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for uid in found.into_values() {
            *counts.entry(uid).or_default() += 1;
        }
        let is_excluded = self.what == NestedNamespaces::Exclude;
        let account = counts.iter().map(|(uid, &namespaces)| status::NestedNamespaces {
            pod: index.pod_of(uid).map_or_else(|| format!("uid {uid}"), ToString::to_string),
            namespaces,
            excluded: is_excluded,
        });
        let account: Vec<_> = account.collect();
        for (uid, one) in counts.keys().zip(&account) {
            if self.told.insert(Arc::clone(uid)) {
                let what = if is_excluded { "not translated" } else { "translated" };
                tracing::info!(pod = %one.pod, "services are dialled from network namespaces inside of a pod: {what}");
            }
        }
        self.told.retain(|uid| counts.contains_key(uid));
        Some(account)
    }
}

impl Work {
    /// `None` if nothing can have changed since the last time.
    fn look(&mut self) -> anyhow::Result<Option<Found>> {
        // In this order: a pod's namespace is mounted before anything in it dials.
        let noted = self.noted.read()?;
        let cookies: HashSet<u64> = noted.iter().map(|(cookie, _)| *cookie).collect();
        let is_fresh = self.looked.is_some_and(|looked| looked.elapsed() < AGAIN);
        if is_fresh && cookies == self.known {
            return Ok(None);
        }
        let tree = cgroups::Tree::read(&self.top).context("reading the cgroup hierarchy")?;
        let pods: HashMap<u64, Arc<str>> =
            tree.pods.into_iter().map(|pod| (pod.id, pod.uid.into())).collect();
        let own = self.helper.namespaces()?.into_iter().collect();
        let diallers: Vec<Dialler> = noted
            .iter()
            .map(|(cookie, namespace)| Dialler {
                cookie: *cookie,
                cgroups: namespace.ancestors.to_vec(),
            })
            .collect();
        let found = nested(&diallers, &pods, &own);
        for (cookie, namespace) in noted {
            let excluded = u64::from(found.contains_key(&cookie));
            if namespace.excluded != excluded {
                self.noted.set_excluded(cookie, namespace, excluded)?;
            }
        }
        self.known = cookies;
        self.looked = Some(Instant::now());
        Ok(Some(found))
    }
}
