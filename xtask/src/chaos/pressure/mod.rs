//! `cargo xtask chaos --pressure`: many connects, open sockets and changes at the same time, for minutes, and the
//! agent's memory and CPU time under that load.

mod load;
mod samples;

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use sockline_testbed::{Build, Metrics, Node};

use self::{
    load::{Connects, Load, OpenSockets},
    samples::Samples,
};
use super::{
    cluster::{CLIENTS, Cluster, PODS, SERVICES},
    harness::Harness,
    oracle::Oracle,
    results::Results,
};
use crate::{build, term};

// The load: connects and changes per second, and open sockets.
const CONNECTS: u32 = 200_000 / 60;
const OPEN: usize = 10_000;
const CHANGES: u32 = 1_000;

/// The largest growth of resident memory between the first and the last quarter: fragmentation, but no leak.
const GROWTH: f64 = 0.05;

pub(super) fn run(seconds: u64, seed: u64) -> Result<()> {
    ensure!(seconds >= 10, "--pressure needs at least 10 seconds");
    super::raise_file_limit(OPEN as u64 * 2)?;
    let time = Duration::from_secs(seconds);
    let results = Arc::new(Results::new());
    let mut random = fastrand::Rng::with_seed(seed);
    let node = Arc::new(Node::new()?);
    let cluster = Arc::new(Cluster::new(&node)?);
    let oracle = Arc::new(Oracle::new(SERVICES, PODS));
    cluster.fill(&oracle, &mut random);
    let load = Load::fill(&cluster, random.fork());
    let mut harness = Harness::new(&node, &cluster, &oracle, &results, random.fork())?;
    harness.use_binary(binary()?);
    harness.start(Build::This).context("starting the agent")?;

    term::doing(
        "pressure",
        &format!("{SERVICES} services, {PODS} pods, {CLIENTS} clients; {load}"),
    );
    let mut open_sockets = OpenSockets::open(&cluster, OPEN)?;
    let sockets = harness.socket_count()?;
    let before = Counts::read(&mut harness)?;
    let changes = load.change(CHANGES, time);
    let connects = Connects::start(&cluster, CONNECTS)?;
    let samples = Samples::take(harness.agent()?.pid(), time)?;
    let connects = connects.end();
    let sent = changes.end();
    let after = Counts::read_after(&mut harness, &before, sent)?;
    let lost = open_sockets.test();
    harness.confirm().context("after all changes")?;
    let checked = harness.check();
    let at_the_end = harness.socket_count()?;
    drop(open_sockets);

    let minutes = time.as_secs_f64() / 60.0;
    let rate = connects.made as f64 / minutes;
    let growth = samples.growth();
    let mut rows = Rows::default();
    rows.check("connects a minute", format!("{rate:.0}"), rate >= 0.95 * f64::from(CONNECTS * 60));
    rows.check("connects that failed", connects.failed.to_string(), connects.failed == 0);
    rows.info("the first failure", connects.first_failure.unwrap_or_default());
    rows.info("open sockets", format!("{OPEN} ({sockets} in the table)"));
    rows.check("open sockets lost", lost.to_string(), lost == 0);
    rows.info("in the table at the end", at_the_end.to_string());
    let rate = sent as f64 / time.as_secs_f64();
    rows.check("changes a second", format!("{rate:.0}"), rate >= 0.95 * f64::from(CHANGES));
    rows.info("changes made", sent.to_string());
    let events = after.events - before.events;
    rows.check("events counted by the agent", events.to_string(), events == sent);
    rows.info("changes written to the kernel", (after.programmed - before.programmed).to_string());
    rows.info("lists of slices", (after.lists - before.lists).to_string());
    rows.info("sync errors", (after.sync_errors - before.sync_errors).to_string());
    rows.info("kernel faults", (after.faults - before.faults).to_string());
    for (window, median) in samples.medians().into_iter().enumerate() {
        rows.info(
            &format!("resident memory, quarter {}", window + 1),
            format!("{:.1} MB", median / 1e6),
        );
    }
    rows.check("growth of memory", format!("{:+.1} %", growth * 100.0), growth <= GROWTH);
    rows.info("CPU, of one core", format!("{:.0} %", samples.cpu_share() * 100.0));
    rows.check(
        "sockline check at the end",
        checked.as_ref().map_or_else(|error| format!("{error:#}"), |()| "ok".to_owned()),
        checked.is_ok(),
    );
    harness.clean_up()?;
    println!();
    term::table(&["pressure", "measured", ""], &rows.rows);
    if rows.bad > 0 {
        bail!("{} of these values are out of bounds; seed {seed}", rows.bad);
    }
    term::ok("pressure", &format!("within all bounds for {}", term::seconds(time)));
    Ok(())
}

/// The optimised agent, unless SOCKLINE_BIN names another one.
fn binary() -> Result<PathBuf> {
    if std::env::var_os("SOCKLINE_BIN").is_some() {
        return Build::This.binary();
    }
    build::release()
}

#[derive(Default)]
struct Rows {
    rows: Vec<Vec<String>>,
    bad: usize,
}

impl Rows {
    fn info(&mut self, what: &str, measured: String) {
        if !measured.is_empty() {
            self.rows.push(vec![what.to_owned(), measured, String::new()]);
        }
    }

    /// A value with a bound. `is_within` is as the condition of an `assert!`.
    fn check(&mut self, what: &str, measured: String, is_within: bool) {
        self.bad += usize::from(!is_within);
        let verdict = if is_within { "" } else { "OUT OF BOUNDS" };
        self.rows.push(vec![what.to_owned(), measured, verdict.to_owned()]);
    }
}

/// The agent's counters.
struct Counts {
    events: u64,
    programmed: u64,
    lists: u64,
    sync_errors: u64,
    faults: u64,
}

impl Counts {
    fn read(harness: &mut Harness) -> Result<Self> {
        let metrics = Metrics::parse(&harness.agent()?.metrics()?);
        let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as u64;
        let slices = |event| {
            let labels = [("kind", "EndpointSlice"), ("event", event)];
            sum("sockline_source_events_total", &labels)
        };
        let since = [("since", "arrival")];
        Ok(Self {
            events: slices("apply"),
            programmed: sum("sockline_network_programming_duration_seconds_count", &since),
            lists: slices("replace"),
            sync_errors: sum("sockline_sync_errors_total", &[]),
            faults: sum("sockline_kernel_faults_total", &[]),
        })
    }

    /// Waits, for up to a minute, until the agent has counted this many events.
    fn read_after(harness: &mut Harness, before: &Self, sent: u64) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let now = Self::read(harness)?;
            if now.events - before.events >= sent || Instant::now() > deadline {
                return Ok(now);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}
