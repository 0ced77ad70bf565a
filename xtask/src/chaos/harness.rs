//! The node's agent, and the API server that it watches, as they are brought up and down.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sockline_testbed::{Agent, AgentOptions, Build, Metrics, Node, Place, bpf};

use super::{
    cluster::{Cluster, MARK, mark_address},
    control_plane::ControlPlane,
    leaks::Objects,
    oracle::Oracle,
    results::Results,
};

/// For what the agent does at once: it shares the machine with hundreds of connects a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// No agent is away for so long, but where that is the fault.
const NEVER_AWAY_FOR: Duration = Duration::from_secs(3600);
/// How often the agent compares the kernel with its plan.
pub(super) const REPAIR_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Harness {
    pub(super) node: Arc<Node>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) results: Arc<Results>,
    pub(super) random: fastrand::Rng,
    agent: Option<Agent>,
    build: Build,
    /// In place of the one that is built for tests.
    binary: Option<PathBuf>,
    pub(super) control_plane: ControlPlane,
    kubeconfig: PathBuf,
    /// What agents are given.
    pub(super) fail_open_after: Duration,
    /// How many sockets one pod opens.
    pub(super) many_sockets: usize,
    mark: u16,
    /// Everything of BPF that was ever seen in the agent or its pins.
    objects: Objects,
}

impl Harness {
    /// With an API server, and no agent yet.
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
            binary: None,
            control_plane,
            kubeconfig,
            fail_open_after: NEVER_AWAY_FOR,
            many_sockets: 20_000,
            mark: 1,
            objects: Objects::default(),
        })
    }

    /// From now on, agents are of this binary.
    pub(super) fn use_binary(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    pub(super) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("no agent was started yet")
    }

    pub(super) const fn build(&self) -> Build {
        self.build
    }

    pub(super) fn options(&self, build: Build) -> Result<AgentOptions> {
        Ok(AgentOptions {
            kubeconfig: Some(self.kubeconfig.clone()),
            binary: Some(self.binary.clone().map_or_else(|| build.binary(), Ok)?),
            // As a pod with `hostNetwork: true`: what it dials is seen by its own programs.
            place: Place::Within,
            args: vec![
                "--repair-interval".to_owned(),
                "1".to_owned(),
                "--fail-open-after".to_owned(),
                format!("{}s", self.fail_open_after.as_secs()),
            ],
            ready_within: PATIENCE,
            ..AgentOptions::default()
        })
    }

    /// Starts an agent, in place of one that has ended, and does not wait for anything.
    pub(super) fn spawn(&mut self, build: Build) -> Result<()> {
        if (build == Build::OtherLayout) != (self.build == Build::OtherLayout) {
            // Until it is known to be complete; a second change meanwhile is the same one.
            self.oracle.layout_change_begins();
        }
        self.results.event(format!("an agent starts: {build:?}"));
        self.agent = Some(self.node.spawn_agent(&self.options(build)?)?);
        self.build = build;
        Ok(())
    }

    /// Waits until the agent is ready and the kernel is as the cluster is now.
    pub(super) fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        self.agent()?.wait_until_ready(PATIENCE)?;
        self.results.event(format!("the agent is ready after {:.1?}", began.elapsed()));
        self.confirm()?;
        self.oracle.layout_change_ends();
        Ok(())
    }

    pub(super) fn start(&mut self, build: Build) -> Result<()> {
        self.spawn(build)?;
        self.settle()
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.note_objects();
        self.results.event("SIGKILL");
        self.agent()?.kill()?;
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        self.note_objects();
        self.results.event("SIGTERM");
        let status = self.agent()?.stop()?;
        if !status.success() {
            self.results.mistake("agents that ended badly", &format!("{status} after SIGTERM"));
        }
        Ok(())
    }

    /// Makes a change and waits until it, and all that were made before, are in the kernel.
    ///
    /// One sync writes service by service, in an order that is the agent's own. So another change is
    /// waited for, which can only come with a later sync.
    pub(super) fn confirm(&mut self) -> Result<()> {
        let made = self.see_mark()?;
        self.see_mark()?;
        self.oracle.confirm(made);
        Ok(())
    }

    /// Makes a change and waits until it is in the kernel; returns the time at which it was made.
    fn see_mark(&mut self) -> Result<Instant> {
        self.mark = self.mark % 60_000 + 1;
        let (mark, made) = (self.mark, Instant::now());
        self.cluster.apply_mark(mark);
        let wanted = mark_address(mark).to_string();
        let place = format!("default/{MARK}");
        let deadline = made + PATIENCE;
        loop {
            let seen = self.agent()?.cli(&["backends", &place, "-o", "json"]);
            if seen.as_ref().is_ok_and(|seen| seen.contains(&wanted)) {
                return Ok(made);
            }
            if let Some(status) = self.agent()?.try_wait()? {
                bail!("the agent has ended, {status}");
            }
            if Instant::now() > deadline {
                bail!("a change is not in the kernel after {PATIENCE:?}: {seen:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The value of a metric.
    pub(super) fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(Metrics::parse(&self.agent()?.metrics()?).sum(name, labels))
    }

    /// How many sockets the agent knows to be translated.
    pub(super) fn sockets_known(&mut self) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.agent()?.cli(&["status", "-o", "json"])?)?;
        status["sockets"].as_u64().context("`sockline status` has no `sockets`")
    }

    /// Runs `sockline check` and fails with what it finds.
    pub(super) fn check(&mut self) -> Result<()> {
        let cgroup = self.node.cgroup().to_string_lossy().into_owned();
        self.agent()?.cli(&["check", "--cgroup", &cgroup]).map(drop)
    }

    /// Ends the API server with all its connections.
    pub(super) fn stop_server(&mut self) {
        self.results.event("the API server ends");
        self.control_plane.end();
    }

    pub(super) fn start_server(&mut self) -> Result<()> {
        self.control_plane.come_up().context("starting the API server again")?;
        self.results.event("the API server is back");
        Ok(())
    }

    /// Where the pins of the agent's layout are.
    pub(super) fn pins(&self) -> Result<PathBuf> {
        let root = self.node.bpffs().join("sockline");
        let version = if self.build == Build::OtherLayout { "v1002" } else { "v2" };
        let pins = root.join(version);
        if !pins.is_dir() {
            bail!("{} is not there", pins.display());
        }
        Ok(pins)
    }

    /// Notes what the agent has open and what is pinned.
    pub(super) fn note_objects(&mut self) {
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

    /// Ends the agent, removes everything, and returns what must be gone soon.
    pub(super) fn clean_up(mut self) -> Result<Objects> {
        self.stop()?;
        self.agent()?.cli(&["cleanup"])?;
        let root = self.node.bpffs().join("sockline");
        if root.exists() {
            self.results.mistake("pins left after cleanup", &root.display().to_string());
        }
        Ok(std::mem::take(&mut self.objects))
    }
}
