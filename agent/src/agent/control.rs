//! The control loop: takes in changes, plans, and brings the kernel to the plan.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle, block_in_place, spawn_blocking},
    time::{MissedTickBehavior, interval, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Arrived, Config, interfaces,
    left_alone::LeftAlonePods,
    pacing::{self, Pacing},
    report::Report,
    test_services::TestServices,
};
use crate::{
    admin::Command,
    dataplane::{self, Dataplane, DataplaneError, SyncReport},
    model::{index::Index, object::Kind, plan::ServicePlan},
    source::Event,
    status::Shared,
    telemetry::Metrics,
};

/// How often the node's addresses are looked at and failed services tried again.
const LOOK_AROUND: Duration = Duration::from_secs(5);
/// How often to take back what was put to rest, if there is anything.
const SETTLE: Duration = Duration::from_secs(1);

struct Control {
    dataplane: Dataplane,
    index: Index,
    left_alone: LeftAlonePods,
    /// The kernel may not know all pods that are left alone.
    left_alone_failed: bool,
    pacing: Pacing,
    /// Since when not all changes are in the kernel.
    sync_began: Option<Instant>,
    /// When services that had to wait may be brought to the kernel.
    next_round: Option<Instant>,
    addresses: Vec<IpAddr>,
    /// The node's addresses may have changed.
    addresses_stale: bool,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    report: Report,
    /// The last sync left something out.
    incomplete: bool,
    /// How many services the last sync left as an earlier agent did.
    held_back: usize,
    tests: TestServices,
}

/// Runs until `stop`, or until the source is gone.
pub async fn run(
    dataplane: Dataplane,
    mut changes: mpsc::Receiver<Arrived>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    config: &Config,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut control = Control {
        left_alone: LeftAlonePods::new(config.leave_alone.clone(), dataplane.cgroup()),
        left_alone_failed: false,
        dataplane,
        index: Index::new(config.node_name.as_str()),
        pacing: Pacing::default(),
        sync_began: None,
        next_round: None,
        addresses: Vec::new(),
        addresses_stale: true,
        report: Report::new(Arc::clone(&shared), Arc::clone(&metrics)),
        shared,
        metrics,
        incomplete: false,
        held_back: 0,
        tests: TestServices::default(),
    };
    let mut settle = interval(SETTLE);
    settle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settling: Option<JoinHandle<Result<Instant, DataplaneError>>> = None;
    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first comparison comes after one interval: what was just written needs none.
    let mut repair =
        interval_at(tokio::time::Instant::now() + config.repair_interval, config.repair_interval);
    repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        control.shared.beat();
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => {
                let Some(change) = change else { return };
                control.take_in(change);
                // Whatever else has arrived costs no plan of its own.
                for _ in 0..changes.len() {
                    let Ok(change) = changes.try_recv() else { break };
                    control.take_in(change);
                }
                control.sync();
            }
            () = at(control.next_round) => control.sync(),
            () = at(control.report.due()) => control.tell(),
            () = control.left_alone.cgroup_created() => control.leave_alone(),
            _ = look_around.tick() => {
                if control.left_alone_failed || control.left_alone.is_incomplete() {
                    control.leave_alone();
                }
                if control.addresses_changed() || control.incomplete {
                    control.addresses_stale = true;
                    control.sync();
                }
            }
            _ = settle.tick(), if settling.is_none() && control.dataplane.has_rested() => {
                // Elsewhere: changes shall not wait for the programs that run.
                let wait = |began| dataplane::wait_for_running_programs().map(|()| began);
                settling = Some(spawn_blocking(move || wait(Instant::now())));
            }
            waited = async { settling.as_mut().expect("the branch's condition").await },
                if settling.is_some() => {
                settling = None;
                control.settle(waited);
            }
            _ = repair.tick() => control.repair(),
            Some(command) = commands.recv() => control.obey(command),
        }
    }
}

/// Returns at this time; never if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Control {
    fn take_in(&mut self, Arrived { event, at }: Arrived) {
        self.metrics.source_event(&event);
        self.addresses_stale |= match &event {
            Event::Replace(kind, _) => *kind == Kind::Node,
            Event::Apply(object) => object.reference.kind == Kind::Node,
            Event::Delete(reference) => reference.kind == Kind::Node,
            Event::Trouble(_) | Event::Complete(_) => false,
        };
        self.index.apply_arrived(event, at);
    }

    fn addresses_changed(&self) -> bool {
        self.index.synced() && interfaces::node_addresses(self.index.node()) != self.addresses
    }

    fn sync(&mut self) {
        self.next_round = None;
        self.report.is_old();
        if !self.index.synced() {
            return;
        }
        let complete = self.index.complete();
        self.dataplane.hold_back(!complete);
        // First, so that no pod is redirected by programs that are just being attached.
        let pods = self.index.left_alone(self.left_alone.policy());
        if pods.is_some() || (complete && self.dataplane.has_held_back_left_alone()) {
            pods.into_iter().for_each(|pods| self.left_alone.want(pods));
            self.leave_alone();
        }
        let began = *self.sync_began.get_or_insert_with(Instant::now);
        match block_in_place(|| self.bring_to_kernel()) {
            Ok(report) => self.done(&report, began),
            Err(error) => {
                self.incomplete = true;
                self.report.failed(&error.into());
            }
        }
    }

    /// Writes what changed since the last time, or compares the whole plan where that is not all.
    fn bring_to_kernel(&mut self) -> Result<SyncReport, DataplaneError> {
        let complete = self.index.complete();
        let addresses_are_known = !std::mem::take(&mut self.addresses_stale) || {
            let addresses = interfaces::node_addresses(self.index.node());
            let known = addresses == self.addresses;
            self.addresses = addresses;
            known
        };
        if self.shared.is_ready()
            && complete
            && self.held_back == 0
            && !self.incomplete
            && addresses_are_known
        {
            return self.bring_changes_to_kernel();
        }
        let changes = self.index.changes();
        let report = self.sync_all()?;
        self.programmed(&changes.services);
        Ok(report)
    }

    fn sync_all(&mut self) -> Result<SyncReport, DataplaneError> {
        let mut plan = self.index.plan();
        plan.frontends.extend(self.tests.frontends());
        self.dataplane.sync(&plan, &self.addresses)
    }

    fn bring_changes_to_kernel(&mut self) -> Result<SyncReport, DataplaneError> {
        let round = self.pacing.round(Instant::now(), |service| self.index.is_waiting(service));
        let changes = self.index.changes_except(|service| round.must_wait(service));
        if !self.dataplane.is_local(&changes.services) {
            let waiting = self.index.changes();
            let report = self.sync_all()?;
            self.programmed(&changes.services);
            self.programmed(&waiting.services);
            return Ok(report);
        }
        self.next_round = round.next().filter(|_| self.index.has_waiting());
        // An address that moves from one service to another must be in one step.
        let (costly, cheap): (Vec<_>, Vec<_>) = changes
            .services
            .into_iter()
            .partition(|change| !changes.addresses_moved && self.pacing.is_costly(&change.service));
        let mut all = SyncReport::default();
        for batch in [cheap, costly] {
            if !batch.is_empty() {
                let report = self.dataplane.sync_services(&batch)?;
                self.programmed(&batch);
                all.merge(report);
            }
        }
        Ok(all)
    }

    /// Takes note of changes that are in the kernel now.
    fn programmed(&mut self, changes: &[ServicePlan]) {
        let now = Instant::now();
        for change in changes {
            let backends = change.frontends.iter().map(|frontend| frontend.backends.len());
            let cost = backends.sum::<usize>() + pacing::FRONTEND * change.frontends.len();
            self.pacing.brought(&change.service, cost, now);
        }
        // The first sync is of objects that are older than this agent.
        if self.shared.is_ready() {
            let causes = changes.iter().flat_map(|change| &change.causes);
            causes.for_each(|cause| self.metrics.programmed(cause));
        }
    }

    fn done(&mut self, report: &SyncReport, began: Instant) {
        let failures = report.failures.iter();
        let failures: Vec<String> = failures
            .map(|failure| format!("{}: {}", failure.object, chain(&failure.error)))
            .collect();
        self.incomplete = !failures.is_empty();
        self.report.failures(failures);
        if self.held_back != report.services_held_back {
            self.held_back = report.services_held_back;
            tracing::info!(
                services = self.held_back,
                "services stay as the last agent left them until the source can be read in full"
            );
        }
        if self.next_round.is_some() {
            // Not all of it is in the kernel yet.
            return;
        }
        let took = began.elapsed();
        self.sync_began = None;
        self.metrics.synced(took);
        self.shared.update(|status| {
            status.last_sync = Some(Timestamp::now());
            status.last_sync_seconds = took.as_secs_f64();
            status.syncs += 1;
        });
        if self.shared.is_ready() {
            tracing::debug!(
                changed = report.services_changed,
                removed = report.services_removed,
                microseconds = took.as_micros(),
                "synced"
            );
        } else {
            self.tell();
            let usage = self.dataplane.usage();
            tracing::info!(
                services = usage.services,
                frontends = usage.frontends,
                backends = usage.pool.backends,
                milliseconds = took.as_millis(),
                "the first full sync is in the kernel"
            );
            self.shared.set_ready();
        }
    }

    /// Brings the kernel to the cgroups of the pods that are left alone.
    fn leave_alone(&mut self) {
        let result = block_in_place(|| -> anyhow::Result<()> {
            let cgroups = self.left_alone.cgroups().context("reading the cgroup hierarchy")?;
            Ok(self.dataplane.leave_alone(&cgroups)?)
        });
        self.left_alone_failed = result.is_err();
        if let Err(error) = result {
            tracing::error!("cannot leave pods alone: {error:#}");
            self.metrics.sync_failed();
        }
        let account = self.left_alone.account();
        self.metrics.left_alone(&account);
        self.shared.update(|status| status.left_alone = account);
    }

    fn tell(&mut self) {
        self.report.tell(&self.index, &self.dataplane.usage());
    }

    fn settle(&mut self, waited: Result<Result<Instant, DataplaneError>, JoinError>) {
        let settled = match waited {
            Ok(Ok(began)) => self.dataplane.settle_before(began),
            Ok(Err(error)) => Err(error),
            Err(error) => return tracing::warn!("waiting for running programs: {error}"),
        };
        if let Err(error) = settled {
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
            // Whoever asked is gone: it costs time that others wait for.
            Command::Compare { reply } if reply.is_closed() => {}
            Command::Compare { reply } => {
                let result = if self.shared.is_ready() {
                    let mut plan = self.index.planned();
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
