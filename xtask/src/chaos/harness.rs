//! Starts, ends and observes the node's agent, and the API server that it watches.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sockline_testbed::{Agent, AgentCgroup, AgentOptions, Build, Metrics, Node, bpf};

use super::{
    cluster::{Cluster, MARK, mark_address},
    control_plane::ControlPlane,
    counts::Knowledge,
    leaks::Objects,
    oracle::Oracle,
    results::Results,
};

/// For what an idle machine does at once: this one has hundreds of connects per second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than any agent is away, except in the fault that is about it.
const NEVER_AWAY_FOR: Duration = Duration::from_secs(3600);
/// The agent's interval between two comparisons of the kernel with its plan.
pub(super) const REPAIR_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Harness {
    pub(super) node: Arc<Node>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) results: Arc<Results>,
    pub(super) random: fastrand::Rng,
    agent: Option<Agent>,
    build: Build,
    /// Of the last agent that was ready.
    ready_build: Build,
    /// Replaces the one that is built for tests.
    binary: Option<PathBuf>,
    pub(super) control_plane: ControlPlane,
    kubeconfig: PathBuf,
    /// Option of the agents.
    pub(super) fail_open_after: Duration,
    /// How many sockets a pod opens in `many-sockets`.
    pub(super) many_sockets: usize,
    mark: u16,
    pub(super) counts: Knowledge,
    /// All BPF objects that the agent had open or pinned at any time.
    objects: Objects,
}

impl Harness {
    /// Starts the API server, but no agent.
    pub(super) fn new(
        node: &Arc<Node>,
        cluster: &Arc<Cluster>,
        oracle: &Arc<Oracle>,
        results: &Arc<Results>,
        random: fastrand::Rng,
    ) -> Result<Self> {
        let control_plane =
            ControlPlane::start(node, cluster).context("starting the API server")?;
        let kubeconfig = control_plane.kubeconfig()?;
        Ok(Self {
            node: Arc::clone(node),
            cluster: Arc::clone(cluster),
            oracle: Arc::clone(oracle),
            results: Arc::clone(results),
            random,
            agent: None,
            build: Build::This,
            ready_build: Build::This,
            binary: None,
            control_plane,
            kubeconfig,
            fail_open_after: NEVER_AWAY_FOR,
            many_sockets: 20_000,
            mark: 1,
            counts: Knowledge::default(),
            objects: Objects::default(),
        })
    }

    /// Starts this binary from now on.
    pub(super) fn use_binary(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    pub(super) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("no agent has been started")
    }

    pub(super) const fn build(&self) -> Build {
        self.build
    }

    pub(super) fn options(&self, build: Build) -> Result<AgentOptions> {
        Ok(AgentOptions {
            kubeconfig: Some(self.kubeconfig.clone()),
            binary: Some(self.binary.clone().map_or_else(|| build.binary(), Ok)?),
            // As a pod with `hostNetwork: true`: its own programs translate its connections.
            cgroup_of_agent: AgentCgroup::InNode,
            args: vec![
                "--reconcile-interval".to_owned(),
                "1s".to_owned(),
                "--fail-open-after".to_owned(),
                format!("{}s", self.fail_open_after.as_secs()),
            ],
            ready_within: TIMEOUT,
            ..AgentOptions::default()
        })
    }

    /// Starts an agent, and does not wait for it.
    pub(super) fn spawn(&mut self, build: Build) -> Result<()> {
        if have_different_layouts(build, self.build) {
            // Lasts until it is known to be complete; a second change before that is part of it.
            self.oracle.layout_change_begins();
        }
        self.results.event(format!("an agent starts: {build:?}"));
        self.agent = Some(self.node.spawn_agent(&self.options(build)?)?);
        self.build = build;
        Ok(())
    }

    /// Waits until the agent is ready and the kernel has the cluster's current state.
    pub(super) fn wait_until_synced(&mut self) -> Result<()> {
        let began = Instant::now();
        self.agent()?.wait_until_ready(TIMEOUT)?;
        self.results.event(format!("the agent is ready after {:.1?}", began.elapsed()));
        self.confirm()?;
        self.oracle.layout_change_ends();
        if have_different_layouts(self.build, self.ready_build) {
            self.records_begin_again();
        }
        self.ready_build = self.build;
        Ok(())
    }

    pub(super) fn start(&mut self, build: Build) -> Result<()> {
        self.spawn(build)?;
        self.wait_until_synced()
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.record_objects();
        self.results.event("SIGKILL");
        self.agent()?.kill()?;
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        self.record_objects();
        self.results.event("SIGTERM");
        let status = self.agent()?.stop()?;
        if !status.success() {
            self.results
                .violation("agents that did not exit cleanly", &format!("{status} after SIGTERM"));
        }
        Ok(())
    }

    /// Waits until all changes so far are in the kernel.
    ///
    /// A sync writes service by service in any order, so the first mark in the kernel proves only that its sync has
    /// begun. The second mark comes with a later sync.
    pub(super) fn confirm(&mut self) -> Result<()> {
        let changed = self.wait_for_mark()?;
        self.wait_for_mark()?;
        self.oracle.confirm(changed);
        Ok(())
    }

    /// Changes the mark and waits until the change is in the kernel. Returns the time of the change.
    fn wait_for_mark(&mut self) -> Result<Instant> {
        self.mark = self.mark % 60_000 + 1;
        let (mark, changed) = (self.mark, Instant::now());
        self.cluster.apply_mark(mark);
        let wanted = mark_address(mark).to_string();
        let place = format!("default/{MARK}");
        let deadline = changed + TIMEOUT;
        loop {
            let backends = self.agent()?.cli(&["backends", &place, "-o", "json"]);
            if backends.as_ref().is_ok_and(|backends| backends.contains(&wanted)) {
                return Ok(changed);
            }
            if let Some(status) = self.agent()?.try_wait()? {
                bail!("the agent ended, {status}");
            }
            if Instant::now() > deadline {
                bail!("a change is not in the kernel after {TIMEOUT:?}: {backends:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The value of a metric.
    pub(super) fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(Metrics::parse(&self.agent()?.metrics()?).sum(name, labels))
    }

    /// The number of sockets in the agent's table.
    pub(super) fn socket_count(&mut self) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.agent()?.cli(&["status", "-o", "json"])?)?;
        status["sockets"].as_u64().context("`sockline status` has no `sockets`")
    }

    /// Runs `sockline check`, and fails if a check does.
    pub(super) fn check(&mut self) -> Result<()> {
        let cgroup = self.node.cgroup().to_string_lossy().into_owned();
        self.agent()?.cli(&["check", "--cgroup-root", &cgroup]).map(drop)
    }

    /// Ends the API server with all its connections.
    pub(super) fn stop_server(&mut self) {
        self.results.event("the API server ends");
        self.control_plane.stop();
    }

    pub(super) fn start_server(&mut self) -> Result<()> {
        self.control_plane.start_server().context("starting the API server again")?;
        self.results.event("the API server is back");
        Ok(())
    }

    /// The folder with the pins of the agent's layout.
    pub(super) fn pins(&self) -> Result<PathBuf> {
        let root = self.node.bpffs().join("sockline");
        let version = if self.build == Build::OtherLayout { "v1005" } else { "v5" };
        let pins = root.join(version);
        if !pins.is_dir() {
            bail!("{} does not exist", pins.display());
        }
        Ok(pins)
    }

    /// Records the BPF objects that the agent has open and pinned.
    pub(super) fn record_objects(&mut self) {
        let pid = self.agent.as_ref().map(Agent::pid);
        if let Some(open) = pid.and_then(|pid| bpf::open_in(pid).ok()) {
            self.objects.add(open);
        }
        self.objects.add_pinned(&self.node.bpffs().join("sockline"));
    }

    pub(super) fn log_tail(&self) -> String {
        let log = self.agent.as_ref().map(Agent::log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends the agent, runs `sockline cleanup`, and returns the objects that the kernel must free.
    pub(super) fn clean_up(mut self) -> Result<Objects> {
        self.stop()?;
        self.agent()?.cli(&["cleanup"])?;
        let root = self.node.bpffs().join("sockline");
        if root.exists() {
            self.results.violation("pins left after cleanup", &root.display().to_string());
        }
        Ok(std::mem::take(&mut self.objects))
    }
}

fn have_different_layouts(one: Build, other: Build) -> bool {
    (one == Build::OtherLayout) != (other == Build::OtherLayout)
}
