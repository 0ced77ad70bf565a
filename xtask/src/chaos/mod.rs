//! `cargo xtask chaos`: injects faults while clients open connections to services and keep them, and checks every
//! answer.
//!
//! Three kinds of failures are expected: calls to a service with an endpoint that was dead at the time, sockets of
//! such an endpoint, and calls while a map entry was corrupt or a program detached by a fault. All other failures,
//! misrouted calls, lost sockets, and objects that remain in the kernel are violations. A run ends with a report of
//! all counts.
//!
//! - The cluster: `cluster` (services, pods and clients), `servers`, `control_plane` (the API server), `kube_proxy` (a
//!   stand-in), `iproute` (runs `ip`).
//! - What happens to it: `faults`, `churn` (of endpoints and pods), `clients`, `hold_sockets` (a process with many sockets);
//!   `harness` starts and ends the agent.
//! - What is checked: `oracle` (whether an answer is right), `counts` and `compare_counts` (of connections), `leaks` (what remains
//!   in the kernel).
//! - What is reported: `results`, `report`.
//! - `pressure` is another run: load instead of faults.

mod churn;
mod clients;
mod cluster;
mod compare_counts;
mod control_plane;
mod counts;
mod faults;
mod harness;
pub(crate) mod hold_sockets;
mod iproute;
mod kube_proxy;
mod leaks;
mod oracle;
mod pressure;
mod report;
mod results;
mod servers;

use std::{
    collections::BTreeSet,
    env,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sockline_testbed::{Build, Node, Task};

use self::{
    churn::Churn,
    clients::ClientContext,
    cluster::{CLIENTS, Cluster, PODS, SERVICES},
    faults::Fault,
    harness::Harness,
    leaks::{LeakReport, Traces},
    oracle::Oracle,
    results::Results,
};
use crate::{
    cargo, process, setup,
    term::{self, Progress},
    variants,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to inject faults [default: 600, with --pressure 300]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Seed of the random numbers, to repeat an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Do not inject these faults
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = fault_names(), conflicts_with = "only")]
    without: Vec<String>,
    /// Inject only these faults, of those that --without can name
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = fault_names(), hide_possible_values = true)]
    only: Vec<String>,
    /// How many sockets a pod opens in the fault `many-sockets` [default: 200,000; below 300 seconds: 20,000]
    #[arg(long, value_name = "N", conflicts_with = "pressure")]
    sockets: Option<u32>,
    /// Inject no faults, but load: 200,000 connects a minute, 10,000 open sockets, 1,000 changes a second
    #[arg(long, conflicts_with_all = ["only", "without"])]
    pressure: bool,
    /// Only kill the agent at each system call of its start; takes half an hour
    #[arg(long, conflicts_with_all = ["only", "without", "pressure", "seconds", "seed"])]
    every_call: bool,
    /// Show all faults and what each does
    #[arg(long, exclusive = true)]
    list: bool,
    /// The agents are built already.
    #[arg(skip)]
    is_built: bool,
}

impl Args {
    /// As continuous integration runs it, which has built the agents before.
    pub(crate) fn for_a_minute() -> Self {
        Self {
            seconds: Some(60),
            seed: None,
            without: Vec::new(),
            only: Vec::new(),
            sockets: None,
            pressure: false,
            every_call: false,
            list: false,
            is_built: true,
        }
    }
}

/// Open files of this process: 3,000 sockets of servers, and about as many others.
const FILES: u64 = 8_192;
/// From this time on, a run opens more sockets.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        let row = |fault: &Fault| vec![fault.name.to_owned(), fault.what.to_owned()];
        term::table(&["fault", "what happens"], &faults::ALL.iter().map(row).collect::<Vec<_>>());
        return Ok(());
    }
    let faults = chosen_faults(args);
    setup::ensure()?;
    // With SOCKLINE_BIN, the variants beside that binary are used as they are.
    if !args.is_built && env::var_os("SOCKLINE_BIN").is_none() {
        variants::build()?;
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    if args.every_call {
        let test = [
            "test",
            "--package",
            "sockline-testbed",
            "--test",
            "recovery",
            "--",
            "crash::",
            "--nocapture",
        ];
        return process::run(cargo::command(&test)?.env("SOCKLINE_EVERY_CALL", "1"));
    }
    if args.pressure {
        return pressure::run(args.seconds.unwrap_or(300), seed);
    }
    let time = Duration::from_secs(args.seconds.unwrap_or(600));
    let sockets = args.sockets.unwrap_or(if time < LONG { 20_000 } else { 200_000 });
    raise_file_limit(FILES)?;
    term::doing(
        "chaos",
        &format!("seed {seed}: {SERVICES} services, {PODS} pods, {CLIENTS} clients"),
    );
    let began = Instant::now();
    let results = Arc::new(Results::new());
    let mut running = Run::start(seed, &results)?;
    running.harness.many_sockets = usize::try_from(sockets)?;
    let (log, leaks) = running.run(&faults, time)?;
    report::print(&results, &leaks, began.elapsed());
    let leaked: usize = leaks.iter().map(|(_, _, left)| left).sum();
    if results.violations() == 0 && leaked == 0 {
        term::ok("chaos", &format!("no violations (seed {seed})"));
        return Ok(());
    }
    report::print_failures(&results, &log);
    bail!("{} violations, {leaked} objects left; seed {seed}", results.violations());
}

fn raise_file_limit(files: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(files), hard.max(files))
        .with_context(|| format!("raising RLIMIT_NOFILE from {soft} to {files}"))
}

fn fault_names() -> PossibleValuesParser {
    PossibleValuesParser::new(faults::ALL.iter().map(|fault| fault.name))
}

fn chosen_faults(args: &Args) -> Vec<&'static Fault> {
    let is_named = |names: &[String], one: &Fault| names.iter().any(|name| name == one.name);
    let all = faults::ALL.iter().filter(|one| {
        !is_named(&args.without, one) && (args.only.is_empty() || is_named(&args.only, one))
    });
    all.collect()
}

/// A run: the node, its agent, and the clients.
struct Run {
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    oracle: Arc<Oracle>,
    results: Arc<Results>,
    harness: Harness,
    random: fastrand::Rng,
    context: ClientContext,
    clients: Vec<Task<()>>,
}

impl Run {
    fn start(seed: u64, results: &Arc<Results>) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let node = Arc::new(Node::new()?);
        let cluster = Arc::new(Cluster::new(&node)?);
        let oracle = Arc::new(Oracle::new(SERVICES, PODS));
        cluster.fill(&oracle, &mut random);
        let mut harness = Harness::new(&node, &cluster, &oracle, results, random.fork())?;
        harness.start(Build::This).context("starting the first agent")?;
        let context = ClientContext {
            oracle: Arc::clone(&oracle),
            results: Arc::clone(results),
            targets: Arc::new(Cluster::targets()),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let mut clients = Vec::new();
        for client in &cluster.clients {
            clients.extend(clients::start(client, &context, random.u64(..))?);
        }
        let results = Arc::clone(results);
        Ok(Self { node, cluster, oracle, results, harness, random, context, clients })
    }

    /// Returns the end of the agent's log, and what remains in the kernel.
    fn run(mut self, faults: &[&'static Fault], time: Duration) -> Result<(String, LeakReport)> {
        let churn = Churn::start(&self.cluster, &self.oracle, &self.results, self.random.fork())?;
        if let Err(error) = self.inject(faults, time) {
            self.results
                .violation("faults that the node did not recover from", &format!("{error:#}"));
        }
        churn.end()?;
        if let Err(error) = self.harness.confirm().and_then(|()| self.harness.check()) {
            self.results.violation("nodes that were not healthy at the end", &format!("{error:#}"));
        }
        // By then, the agent has closed the sockets of all removed endpoints.
        thread::sleep(Duration::from_secs(10));
        self.oracle.faults_end();
        thread::sleep(Duration::from_secs(2));
        self.context.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(Task::join);
        self.harness.compare_final_counts().context("comparing counts of connections")?;
        let log = self.harness.log_tail();
        let mut namespaces = BTreeSet::from([self.node.outside().inode()?]);
        let machines = self.harness.control_plane.machines();
        let pods = self.cluster.pods.iter().chain(&self.cluster.clients);
        for pod in pods.chain(machines).chain([&self.cluster.socket_holder]) {
            namespaces.insert(pod.inode()?);
        }
        let folders = [self.node.bpffs(), self.node.cgroup(), self.node.temp()];
        let folders: Vec<PathBuf> = folders.iter().map(|path| path.to_path_buf()).collect();
        let objects = self.harness.clean_up()?;
        drop((self.cluster, self.context, self.node));
        Ok((log, Traces { objects, namespaces, folders }.remaining_objects()))
    }

    /// Injects all faults in random order, in turns, until the time is over.
    fn inject(&mut self, faults: &[&'static Fault], time: Duration) -> Result<()> {
        let began = Instant::now();
        let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or_default();
        let progress = Progress::new("chaos, seconds", seconds(time));
        let mut bag: Vec<&Fault> = Vec::new();
        loop {
            if bag.is_empty() {
                bag = faults.to_vec();
                self.random.shuffle(&mut bag);
            }
            let (Some(next), true) = (bag.pop(), began.elapsed() < time) else { return Ok(()) };
            let (calls, violations) = (self.results.calls(), self.results.violations());
            progress.set(seconds(began.elapsed()));
            progress.message(format!("{calls} calls, {violations} violations, {}", next.name));
            let started = Instant::now();
            self.results.event(format!("── {}", next.name));
            self.harness.record_objects();
            (next.run)(&mut self.harness).with_context(|| next.name)?;
            self.results.injected(next.name, started.elapsed());
            let compared = self.harness.compare_counts();
            compared.with_context(|| format!("comparing counts after {}", next.name))?;
        }
    }
}
