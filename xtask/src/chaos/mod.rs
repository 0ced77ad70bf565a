//! `cargo xtask chaos`: clients make and hold connections to services while faults are
//! injected, and checks every answer.
//!
//! What may fail: calls to a service with an endpoint that was dead at the time, sockets at such an
//! endpoint, and calls while an entry of a map was wrong, or a program detached, by our own hand. All
//! other failures, misrouted calls and lost sockets are mistakes, and so is anything that is left in
//! the kernel in the end. Ends with a report of all counts.

mod clients;
mod cluster;
mod control_plane;
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

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sockline_testbed::{Build, Node, Task};

use self::{
    clients::ClientContext,
    cluster::{CLIENTS, Churn, Cluster, PODS, SERVICES},
    faults::Fault,
    harness::Harness,
    leaks::{Account, Traces},
    oracle::Oracle,
    results::Results,
};
use crate::{process, repo, setup, term, variants};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to inject faults [default: 600, and 300 with --pressure]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// What chance is to do: the seed that an earlier run printed
    #[arg(long)]
    seed: Option<u64>,
    /// Leave these faults out
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "only")]
    without: Vec<String>,
    /// Use only these faults
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How many sockets one pod opens in `many-sockets` [default: 200,000, and 20,000 in less than five
    /// minutes]
    #[arg(long, value_name = "N", conflicts_with = "pressure")]
    sockets: Option<u32>,
    /// Disturb nothing: 200,000 connects a minute, 10,000 open sockets, 1,000 changes a second
    #[arg(long, conflicts_with_all = ["only", "without"])]
    pressure: bool,
    /// Kill the agent at every system call of its start, one after the other, and nothing else; takes
    /// half an hour
    #[arg(long, conflicts_with_all = ["only", "without", "pressure", "seconds", "seed"])]
    every_call: bool,
}

impl Args {
    /// What continuous integration has the time for.
    pub(crate) fn for_a_minute() -> Self {
        Self {
            seconds: Some(60),
            seed: None,
            without: Vec::new(),
            only: Vec::new(),
            sockets: None,
            pressure: false,
            every_call: false,
        }
    }
}

/// Open files of this process: the servers' sockets are 3,000, and so are all others.
const FILES: u64 = 8_192;
/// A run that has the time for more.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn run(args: &Args) -> Result<()> {
    let faults = chosen(args)?;
    setup::ensure()?;
    // Named by hand: what stands beside it is used as it is.
    if env::var_os("SOCKLINE_BIN").is_none() {
        variants::build()?;
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    if args.every_call {
        let test =
            ["test", "--package", "sockline-testbed", "--test", "killed", "--", "--nocapture"];
        return process::run(repo::cargo(&test)?.env("SOCKLINE_EVERY_CALL", "1"));
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
    if results.mistakes() == 0 && leaked == 0 {
        term::ok("chaos", &format!("nothing failed that should not (seed {seed})"));
        return Ok(());
    }
    report::print_story(&results, &log);
    bail!("{} mistakes, {leaked} things left; seed {seed}", results.mistakes());
}

fn raise_file_limit(files: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(files), hard.max(files))
        .with_context(|| format!("raising RLIMIT_NOFILE from {soft} to {files}"))
}

fn chosen(args: &Args) -> Result<Vec<&'static Fault>> {
    for name in args.without.iter().chain(&args.only) {
        let known = || faults::ALL.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
        ensure!(
            faults::ALL.iter().any(|one| one.name == name),
            "there is no fault {name:?}, but {}",
            known()
        );
    }
    let is_named = |names: &[String], one: &Fault| names.iter().any(|name| name == one.name);
    let all = faults::ALL.iter().filter(|one| {
        !is_named(&args.without, one) && (args.only.is_empty() || is_named(&args.only, one))
    });
    Ok(all.collect())
}

/// Everything that runs.
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

    /// Returns the end of the agent's log, and what is left.
    fn run(mut self, faults: &[&'static Fault], time: Duration) -> Result<(String, Account)> {
        let churn = Churn::start(&self.cluster, &self.oracle, &self.results, self.random.fork())?;
        if let Err(error) = self.inject(faults, time) {
            self.results.mistake("faults that were not got over", &format!("{error:#}"));
        }
        churn.end()?;
        if let Err(error) = self.harness.confirm().and_then(|()| self.harness.check()) {
            self.results.mistake("nodes that are not well in the end", &format!("{error:#}"));
        }
        // Sockets of endpoints that are gone are closed by then, whatever was in the way before.
        thread::sleep(Duration::from_secs(10));
        self.oracle.calms_down();
        thread::sleep(Duration::from_secs(2));
        self.context.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(Task::join);
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
        Ok((log, Traces { objects, namespaces, folders }.account()))
    }

    /// All of them once in a random order, and again.
    fn inject(&mut self, faults: &[&'static Fault], time: Duration) -> Result<()> {
        let began = Instant::now();
        let mut bag: Vec<&Fault> = Vec::new();
        loop {
            if bag.is_empty() {
                bag = faults.to_vec();
                self.random.shuffle(&mut bag);
            }
            let (Some(next), true) = (bag.pop(), began.elapsed() < time) else { return Ok(()) };
            self.progress(began, time, next.name);
            let started = Instant::now();
            self.results.event(format!("── {}", next.name));
            self.harness.note_objects();
            (next.run)(&mut self.harness).with_context(|| next.name)?;
            self.results.injected(next.name, started.elapsed());
        }
    }

    fn progress(&self, began: Instant, time: Duration, name: &str) {
        let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
        let (calls, mistakes) = (self.results.calls(), self.results.mistakes());
        let what = format!("{calls} calls, {mistakes} mistakes, {name}");
        term::progress_of(&what, seconds(began.elapsed()), seconds(time));
    }
}
