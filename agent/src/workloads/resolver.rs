//! Names of client cgroups, for as long as they are asked for.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, oneshot},
    time::Instant,
};

use super::{
    client::Client,
    names::{ClientNames, NamedClient},
};
use crate::{
    cgroups,
    model::object::{ObjectName, Workload},
};

/// How long a cgroup that was not found, or a pod without a name, is not looked up again after the first time. A look-up
/// reads the cgroup hierarchy and takes time of the control loop, and a folder of manifests may never have the pod. So
/// this doubles each time.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// And no longer than this.
const MAX_UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// How long to wait for the control loop: less than events stay switched on, and more than a full sync takes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Entries at most; those that were not asked for last are forgotten then.
const MAX_ENTRIES: usize = 1 << 16;

/// A pod as the source has it.
#[derive(Debug, Clone)]
pub struct NamedPod {
    pub name: ObjectName,
    pub workload: Workload,
}

/// Asks the control loop for pods by their UIDs.
#[derive(Debug)]
pub struct PodQuery {
    pub uids: Vec<String>,
    pub reply: oneshot::Sender<HashMap<String, NamedPod>>,
}

pub type AskPods = Arc<dyn Fn(PodQuery) + Send + Sync>;

/// For several tasks: one looks up at a time.
pub type SharedResolver = Arc<Mutex<Resolver>>;

/// Looks up clients by the ids of their cgroups, and keeps what it found.
pub struct Resolver {
    /// The cgroup that all pods are below.
    top: Arc<PathBuf>,
    ask_pods: AskPods,
    known: HashMap<u64, Known>,
}

struct Known {
    client: Client,
    /// Where the cgroup is, or was; `None` if it was not found.
    path: Option<PathBuf>,
    /// When to look it up again; `None` if all is known.
    expires: Option<Instant>,
    /// How often it was looked up, and not all was known.
    failures: u32,
}

impl Resolver {
    pub fn new(top: PathBuf, ask_pods: AskPods) -> Self {
        Self { top: Arc::new(top), ask_pods, known: HashMap::new() }
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// Whether a client that was looked up has no cgroup any more. Id 0 is no cgroup.
    pub fn is_gone(&self, cgroup: u64) -> bool {
        self.known.get(&cgroup).is_some_and(|known| match &known.path {
            Some(path) => fs::metadata(path).map_or(true, |found| found.ino() != cgroup),
            None => true,
        })
    }

    /// Looks up the clients in these cgroups, and returns those that something is known of.
    pub async fn names(&mut self, cgroups: &[u64]) -> ClientNames {
        self.prepare(cgroups.iter().copied()).await;
        let known = cgroups.iter().filter_map(|&cgroup| {
            let Client { pod, workload } = self.client(cgroup)?.clone();
            let is_known = pod.is_some() || workload.is_some();
            is_known.then_some(NamedClient { cgroup, pod, workload })
        });
        ClientNames { clients: known.collect() }
    }

    /// What is known of the client in this cgroup. Id 0 is no cgroup.
    pub fn client(&self, cgroup: u64) -> Option<&Client> {
        self.known.get(&cgroup).map(|known| &known.client)
    }

    /// Looks up the clients in these cgroups.
    pub async fn prepare(&mut self, cgroups: impl IntoIterator<Item = u64>) {
        let cgroups: HashSet<u64> = cgroups.into_iter().collect();
        if self.known.len() >= MAX_ENTRIES {
            self.known.retain(|cgroup, _| cgroups.contains(cgroup));
        }
        let now = Instant::now();
        let is_known = |cgroup: &u64| {
            let known = self.known.get(cgroup);
            known.is_some_and(|known| known.expires.is_none_or(|expires| expires > now))
        };
        let wanted: HashSet<u64> =
            cgroups.into_iter().filter(|cgroup| *cgroup != 0 && !is_known(cgroup)).collect();
        if wanted.is_empty() {
            return;
        }
        let (top, ids) = (Arc::clone(&self.top), wanted.clone());
        let paths = tokio::task::spawn_blocking(move || cgroups::paths_of(&top, ids));
        let paths = paths.await.unwrap_or_default();
        let uids: HashMap<u64, Option<String>> =
            paths.iter().map(|(&id, path)| (id, cgroups::pod_of(path))).collect();
        let pods = self.pods(uids.values().flatten().cloned().collect()).await;
        let now = Instant::now();
        for cgroup in wanted {
            let failures = self.known.get(&cgroup).map_or(0, |known| known.failures);
            let later = Some(now + unknown_for(failures));
            let (client, expires) = match (paths.get(&cgroup), uids.get(&cgroup)) {
                (Some(path), Some(None)) => (Client::of_node(path), None),
                (_, Some(Some(uid))) => {
                    let pod = pods.get(uid);
                    let name = pod.map(|pod| (&pod.name, &pod.workload));
                    (Client::of_pod(uid, name), if name.is_some() { None } else { later })
                }
                // It has been removed, or is not below the top. The kernel does not use an id again.
                _ => (Client::default(), if failures > 0 { None } else { later }),
            };
            // What was known of a pod stays when it has ended.
            match self.known.get_mut(&cgroup) {
                Some(known) if known.client.pod.is_some() && client.pod.is_none() => {
                    known.expires = expires;
                    known.failures += 1;
                }
                _ => {
                    let below = paths.get(&cgroup).and_then(|path| path.strip_prefix("/").ok());
                    let path = below.map(|below| self.top.join(below));
                    let failures = failures + 1;
                    self.known.insert(cgroup, Known { client, path, expires, failures });
                }
            }
        }
    }

    async fn pods(&self, uids: HashSet<String>) -> HashMap<String, NamedPod> {
        if uids.is_empty() {
            return HashMap::new();
        }
        let (reply, received) = oneshot::channel();
        (self.ask_pods)(PodQuery { uids: uids.into_iter().collect(), reply });
        match tokio::time::timeout(TIMEOUT, received).await {
            Ok(Ok(pods)) => pods,
            _ => HashMap::new(),
        }
    }
}

/// How long to wait after this many look-ups that failed before.
fn unknown_for(failures: u32) -> Duration {
    (UNKNOWN_FOR * 2_u32.pow(failures.min(16))).min(MAX_UNKNOWN_FOR)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::time::advance;

    use super::*;

    const UID: &str = "0b7e1c2d-3f4a-4b5c-8d6e-7f8091a2b3c4";

    /// A folder like a pod's cgroup, and the id.
    fn pod() -> (tempfile::TempDir, u64) {
        let top = tempfile::tempdir().unwrap();
        let pod = top.path().join(format!("kubepods/pod{UID}"));
        fs::create_dir_all(&pod).unwrap();
        let id = fs::metadata(&pod).unwrap().ino();
        (top, id)
    }

    /// As with the metrics of clients, which are read every 5 s.
    #[tokio::test(start_paused = true)]
    async fn a_pod_that_the_source_does_not_have_is_asked_for_less_and_less_often() {
        let (top, cgroup) = pod();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let ask = move |query: PodQuery| {
            assert_eq!(query.uids, [UID]);
            // From the ninth time on, the source has the pod.
            let pod = NamedPod {
                name: ObjectName::new("shop", "web-1"),
                workload: Workload::new("Deployment", "web"),
            };
            let known = if count.fetch_add(1, Relaxed) < 8 { vec![] } else { vec![pod] };
            let pods = known.into_iter().map(|pod| (UID.to_owned(), pod));
            query.reply.send(pods.collect()).unwrap();
        };
        let mut resolver = Resolver::new(top.path().to_owned(), Arc::new(ask));
        let mut times = Vec::new();
        for seconds in (0..600).step_by(5) {
            let before = asked.load(Relaxed);
            resolver.prepare([cgroup]).await;
            if asked.load(Relaxed) > before {
                times.push(seconds);
            }
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(times, [0, 5, 10, 20, 40, 75, 135, 195, 255]);
        let client = resolver.client(cgroup).unwrap();
        assert_eq!(client.label(), ("shop/web".to_owned(), "Deployment"));
    }
}
