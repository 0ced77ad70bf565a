//! What is told of the state: log, status and gauges.
//!
//! What this goes through grows with the cluster, so it comes after the changes that matter to
//! connections, and not for each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::left_out::LeftOutPort;
use crate::{
    dataplane::{Counted, OverLimit, Usage},
    model::{index::Counts, object::Problem},
    status::{self, Objects, Shared, Unconfirmed},
    telemetry::Metrics,
};

/// How late a change may be told.
const AFTER: Duration = Duration::from_millis(100);
/// Telling takes no more than one part in so many of the time.
const SHARE: u32 = 100;

pub struct Report {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    due: Option<Instant>,
    after: Duration,
    /// What was logged already.
    problems_told: BTreeSet<Problem>,
    left_out_told: BTreeSet<LeftOutPort>,
    full_told: BTreeSet<&'static str>,
    /// How many sockets of which cgroups were not remembered, as of the last count.
    refused: BTreeMap<u64, u64>,
    over_limit_told: BTreeSet<u64>,
    /// What could not be brought into the kernel.
    failures: Vec<String>,
    /// Maps that programs write and that are full, with what that costs.
    full: Vec<String>,
    counted: Option<Counted>,
}

/// Names that are spelled out in one line of the log.
const NAMES_IN_A_LINE: usize = 20;

impl Report {
    pub const fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            due: None,
            after: AFTER,
            problems_told: BTreeSet::new(),
            left_out_told: BTreeSet::new(),
            full_told: BTreeSet::new(),
            refused: BTreeMap::new(),
            over_limit_told: BTreeSet::new(),
            failures: Vec::new(),
            full: Vec::new(),
            counted: None,
        }
    }

    /// When [`Self::tell`] is to be called.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed that is to be told.
    pub fn is_old(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.after);
    }

    /// Takes in what could not be brought into the kernel; logs what is new, one line for each reason.
    pub fn left_out(&mut self, ports: Vec<LeftOutPort>) {
        if ports.is_empty() && self.left_out_told.is_empty() {
            self.failures.clear();
            return;
        }
        let ports: BTreeSet<LeftOutPort> = ports.into_iter().collect();
        let mut new: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for port in ports.difference(&self.left_out_told) {
            new.entry(&port.reason).or_default().push(&port.port);
        }
        for (reason, names) in new {
            let who = match names.len() {
                1 => "1 service port keeps what it had".into(),
                count => format!("{count} service ports keep what they had"),
            };
            tracing::error!("{reason}; {who}: {}", some_of(&names));
        }
        self.metrics.left_out(&ports);
        self.failures =
            ports.iter().map(|LeftOutPort { port, reason }| format!("{port}: {reason}")).collect();
        self.left_out_told = ports;
    }

    /// Takes in how full the maps are that programs write, and which services are not counted.
    pub fn counted(&mut self, counted: &Counted, uncounted: Vec<String>) {
        self.full.clear();
        let affinity = counted.affinity_full.then(|| {
            format!(
                "map `AFFINITY` is full (--max-affinity {}): clients that were idle for the longest \
                 time lose their session affinity",
                counted.affinity.limit
            )
        });
        let counters = (!uncounted.is_empty()).then(|| {
            format!(
                "map `SERVICES` is full ({} entries): what these service ports refuse or pass is not \
                 counted",
                counted.counters.limit,
            )
        });
        for (map, text, names) in
            [("AFFINITY", affinity, Vec::new()), ("SERVICES", counters, uncounted)]
        {
            let with = |text: &str, names: &str| match names {
                "" => text.to_owned(),
                names => format!("{text}: {names}"),
            };
            match text {
                Some(text) => {
                    if self.full_told.insert(map) {
                        tracing::error!("{}", with(&text, &some_of(&names)));
                    }
                    self.full.push(with(&text, &names.join(", ")));
                }
                None => {
                    if self.full_told.remove(map) {
                        tracing::info!("map `{map}` has room again");
                    }
                }
            }
        }
        self.over_limit(&counted.over_limit);
        self.counted = Some(Counted { counted: None, ..counted.clone() });
        self.is_old();
    }

    /// Takes in whose sockets were not all remembered: names each once, until it has room again.
    fn over_limit(&mut self, over: &[OverLimit]) {
        let before = std::mem::take(&mut self.refused);
        for one in over {
            let known = before.get(&one.cgroup).copied();
            // What was refused before this agent began is no news.
            let is_over = one.is_at_limit() || known.is_some_and(|known| one.refused > known);
            self.refused.insert(one.cgroup, one.refused);
            if is_over {
                let path = one.path.as_ref().map(|path| path.display().to_string());
                let text = format!(
                    "sockets of cgroup {} take all the room that they may beyond the socket table ({} \
                     units): connections are served, but {} were not remembered",
                    path.unwrap_or_else(|| format!("{} (gone)", one.cgroup)),
                    one.units,
                    one.refused
                );
                if self.over_limit_told.insert(one.cgroup) {
                    tracing::warn!("{text}");
                }
                self.full.push(text);
            } else if self.over_limit_told.remove(&one.cgroup) {
                tracing::info!("sockets of cgroup {} have room again", one.cgroup);
            }
        }
    }

    /// The last sync failed as a whole.
    pub fn failed(&mut self, error: &anyhow::Error) {
        tracing::error!("cannot bring the plan into the kernel: {error:#}");
        self.metrics.sync_failed();
        self.failures = vec![format!("{error:#}")];
    }

    /// Brings everything up to date.
    pub fn tell(
        &mut self,
        problems: BTreeSet<Problem>,
        counts: Counts,
        usage: &Usage,
        unconfirmed: Unconfirmed,
    ) {
        let began = Instant::now();
        self.due = None;
        self.problems(problems);
        let maps = status::maps(usage, self.counted.as_ref());
        self.metrics.usage(usage, &maps);
        self.shared.update(|status| {
            status.objects = Objects {
                services: counts.services,
                endpoint_slices: counts.endpoint_slices,
                endpoints: counts.endpoints,
            };
            status.unconfirmed = unconfirmed;
            status.failures.clone_from(&self.failures);
            status.full.clone_from(&self.full);
            status.maps = maps;
        });
        self.after = AFTER.max(began.elapsed() * SHARE);
    }

    /// Logs each problem once, when it appears, and once more when it is gone.
    fn problems(&mut self, problems: BTreeSet<Problem>) {
        for new in problems.difference(&self.problems_told) {
            tracing::warn!("{new}");
        }
        for solved in self.problems_told.difference(&problems) {
            tracing::info!("solved: {solved}");
        }
        self.metrics.problems(problems.len());
        self.shared
            .update(|status| status.problems = problems.iter().map(ToString::to_string).collect());
        self.problems_told = problems;
    }
}

/// Names for one line of the log: not all, if they are many.
pub fn some_of(names: &[impl AsRef<str>]) -> String {
    let mut text =
        names.iter().take(NAMES_IN_A_LINE).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if names.len() > NAMES_IN_A_LINE {
        let more = names.len() - NAMES_IN_A_LINE;
        text.push_str(&format!(" and {more} more (`sockline status` names all)"));
    }
    text
}
