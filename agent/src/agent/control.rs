//! The control loop: takes in changes, plans, and brings the kernel to the plan.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{Config, interfaces, test_services::TestServices};
use crate::{
    admin::Command,
    dataplane::{Dataplane, DataplaneError, SyncReport},
    model::{index::Index, object::Problem},
    source::Event,
    status::{self, Objects, Shared},
    telemetry::Metrics,
};

/// How often the node's addresses are looked at and failed services tried again.
const LOOK_AROUND: Duration = Duration::from_secs(5);

struct Control {
    dataplane: Dataplane,
    index: Index,
    addresses: Vec<IpAddr>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// Problems that were logged already.
    told: BTreeSet<Problem>,
    failures_told: BTreeSet<String>,
    /// The last sync left something out.
    incomplete: bool,
    /// How many services the last sync left as an earlier agent did.
    held_back: usize,
    tests: TestServices,
}

/// Runs until `stop`, or until the source is gone.
pub async fn run(
    dataplane: Dataplane,
    mut changes: mpsc::Receiver<Event>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    config: &Config,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut control = Control {
        dataplane,
        index: Index::new(config.node_name.as_str()),
        addresses: Vec::new(),
        shared,
        metrics,
        told: BTreeSet::new(),
        failures_told: BTreeSet::new(),
        incomplete: false,
        held_back: 0,
        tests: TestServices::default(),
    };
    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first comparison comes after one interval: what was just written needs none.
    let mut repair = interval_at(Instant::now() + config.repair_interval, config.repair_interval);
    repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        control.shared.beat();
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => {
                let Some(change) = change else { return };
                control.take_in(change);
                // Whatever else has arrived costs no plan of its own.
                while let Ok(change) = changes.try_recv() {
                    control.take_in(change);
                }
                control.sync();
            }
            _ = look_around.tick() => {
                if control.addresses_changed() || control.incomplete {
                    control.sync();
                }
                control.settle();
            }
            _ = repair.tick() => control.repair(),
            Some(command) = commands.recv() => control.obey(command),
        }
    }
}

impl Control {
    fn take_in(&mut self, event: Event) {
        self.metrics.source_event(&event);
        self.index.apply(event);
    }

    fn addresses_changed(&self) -> bool {
        self.index.synced() && interfaces::node_addresses(self.index.node()) != self.addresses
    }

    fn sync(&mut self) {
        self.tell_problems();
        let counts = self.index.counts();
        self.shared.update(|status| {
            status.objects = Objects {
                services: counts.services,
                endpoint_slices: counts.endpoint_slices,
                endpoints: counts.endpoints,
            };
        });
        if !self.index.synced() {
            return;
        }
        let began = std::time::Instant::now();
        let result = block_in_place(|| self.bring_to_kernel());
        let took = began.elapsed();
        match result {
            Ok(report) => self.done(&report, took),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("cannot bring the plan into the kernel: {error:#}");
                self.metrics.sync_failed();
                self.incomplete = true;
                self.shared.update(|status| status.failures = vec![format!("{error:#}")]);
            }
        }
    }

    /// Writes what changed since the last time, or compares the whole plan where that is not all.
    fn bring_to_kernel(&mut self) -> Result<SyncReport, DataplaneError> {
        let complete = self.index.complete();
        self.dataplane.hold_back(!complete);
        let addresses = interfaces::node_addresses(self.index.node());
        let only_changes = self.shared.is_ready()
            && complete
            && self.held_back == 0
            && !self.incomplete
            && addresses == self.addresses;
        if only_changes && let Some(result) = self.dataplane.sync_services(&self.index.changes()) {
            return result;
        }
        self.addresses = addresses;
        let mut plan = self.index.plan();
        plan.frontends.extend(self.tests.frontends());
        self.dataplane.sync(&plan, &self.addresses)
    }

    fn done(&mut self, report: &SyncReport, took: Duration) {
        let failures: Vec<String> = report
            .failures
            .iter()
            .map(|failure| format!("{}: {}", failure.object, chain(&failure.error)))
            .collect();
        for failure in &failures {
            if self.failures_told.insert(failure.clone()) {
                tracing::error!("{failure}; it keeps what it had");
            }
        }
        self.failures_told.retain(|failure| failures.contains(failure));
        self.incomplete = !failures.is_empty();
        if self.held_back != report.services_held_back {
            self.held_back = report.services_held_back;
            tracing::info!(
                services = self.held_back,
                "services stay as the last agent left them until the source can be read in full"
            );
        }
        let usage = self.dataplane.usage();
        self.metrics.synced(took, &usage, failures.len());
        let first = !self.shared.is_ready();
        self.shared.update(|status| {
            status.last_sync = Some(Timestamp::now());
            status.last_sync_seconds = took.as_secs_f64();
            status.syncs += 1;
            status.failures = failures;
            status.maps = status::maps(&usage);
        });
        if first {
            tracing::info!(
                services = usage.services,
                frontends = usage.frontends,
                backends = usage.pool.backends,
                milliseconds = took.as_millis(),
                "the first full sync is in the kernel"
            );
            self.shared.set_ready();
        } else {
            tracing::debug!(
                changed = report.services_changed,
                removed = report.services_removed,
                microseconds = took.as_micros(),
                "synced"
            );
        }
    }

    /// Logs each problem once, when it appears, and once more when it is gone.
    fn tell_problems(&mut self) {
        let problems: BTreeSet<Problem> = self.index.problems().into_iter().collect();
        for new in problems.difference(&self.told) {
            tracing::warn!("{new}");
        }
        for solved in self.told.difference(&problems) {
            tracing::info!("solved: {solved}");
        }
        self.metrics.problems(problems.len());
        self.shared
            .update(|status| status.problems = problems.iter().map(ToString::to_string).collect());
        self.told = problems;
    }

    fn settle(&mut self) {
        if let Err(error) = block_in_place(|| self.dataplane.settle()) {
            tracing::warn!("{}", chain(&error));
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::PutTest { listeners, reply } => {
                let result = if self.shared.is_ready() {
                    block_in_place(|| self.tests.put(&mut self.dataplane, listeners))
                } else {
                    Err("the agent waits for its first full sync".into())
                };
                // Whoever asked may have gone meanwhile.
                if let Err(Ok(service)) = reply.send(result) {
                    self.tests.remove(&mut self.dataplane, &service);
                }
            }
            Command::RemoveTest(service) => {
                block_in_place(|| self.tests.remove(&mut self.dataplane, &service));
            }
            Command::Compare { reply } => {
                let result = if self.shared.is_ready() {
                    let mut plan = self.index.plan();
                    plan.frontends.extend(self.tests.frontends());
                    block_in_place(|| self.dataplane.compare(&plan)).map_err(|error| chain(&error))
                } else {
                    Err("the agent waits for its first full sync".into())
                };
                let _ = reply.send(result);
            }
        }
    }

    fn repair(&mut self) {
        match block_in_place(|| self.dataplane.repair()) {
            Ok((0, links)) if links.is_empty() => {}
            Ok((entries, links)) => {
                tracing::warn!(
                    entries,
                    links = links.join(" "),
                    "the kernel differed from the plan and was repaired"
                );
                self.metrics.repaired(entries, links.len());
                self.shared.update(|status| status.repairs += (entries + links.len()) as u64);
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("cannot compare the kernel with the plan: {error:#}");
                self.metrics.sync_failed();
            }
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
