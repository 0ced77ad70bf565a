//! Publishes the state of the control loop: log, status and gauges.
//!
//! The cost of that grows with the cluster. So it happens some time after a change is in the kernel, and
//! once for all changes until then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    dataplane::{OverLimit, ScannedUsage, Unreadable, Usage},
    error_chain::chain,
    model::{index::Counts, object::InputError},
    status::{
        self, FullMap, InvalidObject, Objects, OutOfSync, Shared, UnconfirmedServicePorts,
        UnreadableMap, UnsyncedObject,
    },
    telemetry::Metrics,
};

/// Minimum time from a change to its publication.
const MIN_DELAY: Duration = Duration::from_millis(100);
/// Publishing takes at most one part in this many of the loop's time.
const MAX_SHARE: u32 = 100;
/// The name of the map whose shares may be full.
const OVERFLOW: &str = "overflow";
/// How many names one log line has at most.
const MAX_NAMES: usize = 20;

/// What is not in the kernel as planned, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnsyncedPort {
    pub object: UnsyncedObject,
    pub reason: String,
}

pub struct StatusPublisher {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    due: Option<Instant>,
    delay: Duration,
    logged_input_errors: BTreeSet<InputError>,
    logged_unsynced: BTreeSet<UnsyncedPort>,
    /// Names of maps that were logged as full.
    logged_full: BTreeSet<&'static str>,
    /// Cgroups that were logged as over their limit.
    logged_over_limit: BTreeSet<u64>,
    /// By cgroup, how many sockets have no record, as of the last count.
    refused: BTreeMap<u64, u64>,
    /// What is not in the kernel as planned.
    errors: Vec<OutOfSync>,
    /// Maps that programs write and that are full.
    full: Vec<FullMap>,
    /// Maps that programs write and that the last scan could not read, with the error.
    unreadable: BTreeMap<&'static str, String>,
    map_usage: Option<ScannedUsage>,
    /// How many services the last sync left as an earlier agent did.
    unconfirmed: usize,
}

impl StatusPublisher {
    pub const fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            due: None,
            delay: MIN_DELAY,
            logged_input_errors: BTreeSet::new(),
            logged_unsynced: BTreeSet::new(),
            logged_full: BTreeSet::new(),
            logged_over_limit: BTreeSet::new(),
            refused: BTreeMap::new(),
            errors: Vec::new(),
            full: Vec::new(),
            unreadable: BTreeMap::new(),
            map_usage: None,
            unconfirmed: 0,
        }
    }

    /// When to call [`Self::publish`].
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Schedules a publication because something changed.
    pub fn mark_dirty(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.delay);
    }

    /// Records the service ports that are not in the kernel as planned; logs the new ones, one line for
    /// each reason.
    pub fn unsynced(&mut self, ports: Vec<UnsyncedPort>) {
        if ports.is_empty() && self.logged_unsynced.is_empty() {
            self.errors.clear();
            return;
        }
        let ports: BTreeSet<UnsyncedPort> = ports.into_iter().collect();
        let mut new: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for port in ports.difference(&self.logged_unsynced) {
            new.entry(&port.reason).or_default().push(port.object.to_string());
        }
        for (reason, names) in new {
            let which = match names.len() {
                1 => "1 service port keeps what it had".into(),
                count => format!("{count} service ports keep what they had"),
            };
            tracing::error!("{reason}; {which}: {}", first_names(&names));
        }
        self.metrics.out_of_sync(ports.iter().map(|unsynced| &unsynced.object));
        self.errors = ports
            .iter()
            .map(|UnsyncedPort { object, reason }| OutOfSync::new(object, reason))
            .collect();
        self.logged_unsynced = ports;
    }

    /// Records the usage of the maps that programs write, and which services have no counters. Logs a map
    /// that has become full, and one that has room again. One that could not be read stays full if it was.
    pub fn map_usage(&mut self, mut scanned: ScannedUsage, without_counters: Vec<String>) {
        self.unreadable(&scanned.unreadable);
        let affinity = scanned.affinity.as_ref().map(|map| {
            map.is_full.then(|| {
                format!(
                    "map `AFFINITY` is full (--max-affinity {}): clients that were idle for the longest \
                     time lose their session affinity",
                    map.usage.limit
                )
            })
        });
        let counters = scanned.counters.as_mut().map(|map| {
            map.counted = None;
            (!without_counters.is_empty()).then(|| {
                format!(
                    "map `SERVICE_COUNTERS` is full ({} entries, a fixed limit): what these service ports refuse or bypass is \
                     not counted",
                    map.usage.limit,
                )
            })
        });
        let stats = scanned.stats.map(|map| {
            (map.entries >= map.limit).then(|| {
                format!(
                    "map `SERVICE_STATS` is full ({} entries, fewer with more CPUs): how connections of further service ports \
                     end is not known",
                    map.limit,
                )
            })
        });
        for (map, name, text, names) in [
            ("AFFINITY", "affinity", affinity, Vec::new()),
            ("SERVICE_STATS", "service-stats", stats, Vec::new()),
            ("SERVICE_COUNTERS", "service-counters", counters, without_counters),
        ] {
            let with = |text: &str, names: &str| match names {
                "" => text.to_owned(),
                names => format!("{text}: {names}"),
            };
            let Some(text) = text else { continue };
            self.full.retain(|full| full.name != name);
            match text {
                Some(text) => {
                    if self.logged_full.insert(map) {
                        tracing::error!("{}", with(&text, &first_names(&names)));
                    }
                    self.full.push(FullMap {
                        name: name.into(),
                        cgroup: None,
                        message: with(&text, &names.join(", ")),
                    });
                }
                None => {
                    if self.logged_full.remove(map) {
                        tracing::info!("map `{map}` has room again");
                    }
                }
            }
        }
        if let Some(clients) = &scanned.clients {
            self.metrics.clients_evicted(clients.evicted);
        }
        if let Some(overflow) = &scanned.overflow {
            self.over_limit(&overflow.over_limit);
        }
        self.map_usage = Some(scanned);
        self.mark_dirty();
    }

    /// Records the maps that a scan could not read. Logs each with its error, and when it is read again.
    fn unreadable(&mut self, failed: &[Unreadable]) {
        let now = failed.iter().map(|one| (one.map, chain(&one.error)));
        let now: BTreeMap<&'static str, String> = now.collect();
        for (map, error) in &now {
            if self.unreadable.get(map) != Some(error) {
                tracing::warn!("cannot read map {map}: {error}");
            }
        }
        for map in self.unreadable.keys().filter(|map| !now.contains_key(*map)) {
            tracing::info!("resolved: map {map} is read again");
        }
        self.unreadable = now;
    }

    /// Records the cgroups with sockets that have no record. Logs each once, and when it has room again.
    fn over_limit(&mut self, over: &[OverLimit]) {
        self.full.retain(|full| full.name != OVERFLOW);
        let before = std::mem::take(&mut self.refused);
        for one in over {
            let known = before.get(&one.cgroup).copied();
            // Those refused before this agent started are not logged.
            let is_over = one.is_at_limit() || known.is_some_and(|known| one.refused > known);
            self.refused.insert(one.cgroup, one.refused);
            if is_over {
                let path = one.path.as_ref().map(|path| path.display().to_string());
                let cgroup = path.unwrap_or_else(|| format!("{} (gone)", one.cgroup));
                let text = format!(
                    "sockets of cgroup {cgroup} take all the room that they may beyond the socket table ({} \
                     units): connections are served, but {} were not remembered",
                    one.units, one.refused
                );
                if self.logged_over_limit.insert(one.cgroup) {
                    tracing::warn!("{text}");
                }
                self.full.push(FullMap {
                    name: OVERFLOW.into(),
                    cgroup: Some(cgroup),
                    message: text,
                });
            } else if self.logged_over_limit.remove(&one.cgroup) {
                tracing::info!("sockets of cgroup {} have room again", one.cgroup);
            }
        }
    }

    /// Records how many services stay as an earlier agent left them; logs a change.
    pub fn unconfirmed(&mut self, services: usize) {
        if self.unconfirmed != services {
            self.unconfirmed = services;
            tracing::info!(
                services,
                "services stay as the last agent left them until the source can be read in full"
            );
        }
    }

    /// Logs and counts a sync that failed as a whole.
    pub fn sync_failed(&mut self, error: &anyhow::Error) {
        tracing::error!("cannot write the plan to the maps: {error:#}");
        self.metrics.sync_failed();
        self.errors = vec![OutOfSync::all_services(format!("{error:#}"))];
    }

    /// Publishes the present state.
    pub fn publish(&mut self, input_errors: BTreeSet<InputError>, counts: Counts, usage: &Usage) {
        let began = Instant::now();
        self.due = None;
        self.input_errors(input_errors);
        let maps = status::maps(usage, self.map_usage.as_ref());
        self.metrics.usage(usage, &maps);
        self.shared.update(|status| {
            status.objects = Objects {
                services: counts.services,
                endpoint_slices: counts.endpoint_slices,
                endpoints: counts.endpoints,
            };
            status.unconfirmed_service_ports = UnconfirmedServicePorts {
                from_last_agent: self.unconfirmed,
                retained: usage.retained,
                waiting_for_address: usage.waiting_for_address,
                released: usage.released,
            };
            status.out_of_sync.clone_from(&self.errors);
            status.full_maps.clone_from(&self.full);
            let unreadable = self.unreadable.iter().map(|(map, error)| UnreadableMap {
                name: (*map).to_owned(),
                message: error.clone(),
            });
            status.unreadable_maps = unreadable.collect();
            status.maps = maps;
        });
        self.delay = MIN_DELAY.max(began.elapsed() * MAX_SHARE);
    }

    /// Logs each input error when it appears and when it is resolved.
    fn input_errors(&mut self, input_errors: BTreeSet<InputError>) {
        for new in input_errors.difference(&self.logged_input_errors) {
            tracing::warn!("{new}");
        }
        for resolved in self.logged_input_errors.difference(&input_errors) {
            tracing::info!("resolved: {resolved}");
        }
        let objects: BTreeSet<&str> =
            input_errors.iter().map(|input_error| input_error.object.as_str()).collect();
        self.metrics.invalid_objects(objects.len());
        self.shared.update(|status| {
            status.invalid_objects = input_errors.iter().map(InvalidObject::from).collect();
        });
        self.logged_input_errors = input_errors;
    }
}

/// The first names, for one log line, and how many more there are.
pub fn first_names(names: &[impl AsRef<str>]) -> String {
    let mut text =
        names.iter().take(MAX_NAMES).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if names.len() > MAX_NAMES {
        let more = names.len() - MAX_NAMES;
        text.push_str(&format!(" and {more} more (`sockline status` names all)"));
    }
    text
}
