//! A pod that opens more sockets than the table can hold.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sockline_testbed::Ns;

use super::{wait_for, wait_within};
use crate::chaos::{
    clients::Target,
    cluster::{Cluster, has_endpoints},
    harness::Harness,
    oracle::{Observed, Verdict},
};

const UID: &str = "c4a05000-0000-4000-8000-000000000001";
/// Below this process's own limit of open files.
const PER_PROCESS: usize = 8_000;
/// Counts the searches for sockets whose backend is gone.
const SEARCHES: &str = "sockline_socket_scan_duration_seconds_count";
const SEARCHED_WITHIN: Duration = Duration::from_secs(300);
/// Upper bound for the clients' sockets, whose number changes meanwhile.
const OTHER_SOCKETS: u64 = 5_000;

pub(super) fn many(harness: &mut Harness) -> Result<()> {
    let before = harness.socket_count()?;
    let cgroup = harness.node.pod_cgroup(UID)?;
    let container = cgroup.container(&harness.cluster.socket_holder, "socket-holder")?;
    let targets: Vec<Target> = Cluster::targets()
        .into_iter()
        .filter(|target| target.udp.is_ipv4() && has_endpoints(target.service))
        .collect();
    let mut processes = Vec::new();
    let mut missing = harness.many_sockets;
    while missing > 0 {
        let count = missing.min(PER_PROCESS);
        processes.push(Process::start(&container, &targets, count)?);
        missing -= count;
    }
    let began = Instant::now();
    let mut opened = 0;
    for process in &mut processes {
        opened += process.opened(harness, &targets, began)?;
    }
    harness.results.event(format!("a pod has {opened} sockets after {:.1?}", began.elapsed()));
    harness.results.count_many("sockets that one pod opened", opened);
    // The agent and all other pods keep working.
    harness.confirm()?;
    harness.check()?;
    drop(processes);
    let mut known = 0;
    wait_for("records of closed sockets to go", || {
        known = harness.socket_count().unwrap_or(u64::MAX);
        known < before + OTHER_SOCKETS
    })
    .with_context(|| format!("{before} before, {known} now"))?;
    drop(container);
    cgroup.remove()?;
    // After a search the agent waits 25 times as long as it took, and one of them had all these sockets to search.
    let searches = harness.metric(SEARCHES, &[])?;
    wait_within(SEARCHED_WITHIN, "two more searches for sockets whose backend is gone", || {
        harness.metric(SEARCHES, &[]).is_ok_and(|now| now >= searches + 2.0)
    })
}

/// A process with many sockets, which ends when dropped.
struct Process(Child);

impl Process {
    fn start(container: &Ns, targets: &[Target], count: usize) -> Result<Self> {
        let mut command = Command::new(env::current_exe().context("finding this executable")?);
        command
            .args(["hold-sockets", "--count", &count.to_string()])
            .args(targets.iter().map(|target| target.udp.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child =
            container.child(&mut command).context("starting a process with many sockets")?;
        Ok(Self(child))
    }

    /// Waits until it has opened its sockets, and checks the errors of those that it could not connect.
    fn opened(&mut self, harness: &Harness, targets: &[Target], began: Instant) -> Result<u64> {
        let output = self.0.stdout.take().context("its output was taken before")?;
        for line in BufReader::new(output).lines() {
            let line = line.context("reading its output")?;
            let Some((target, error)) = line.split_once(' ') else {
                return line.parse().with_context(|| format!("unexpected output {line:?}"));
            };
            let address: SocketAddr = target.parse()?;
            let target = targets.iter().find(|target| target.udp == address);
            let service =
                target.with_context(|| format!("{address} is not one of its targets"))?.service;
            let got = Observed::Error(io::Error::from_raw_os_error(error.parse()?));
            let verdict = harness.oracle.classify(service, began, Instant::now(), &got);
            if let Verdict::Failed(what) = verdict {
                harness
                    .results
                    .violation("sockets of `many-sockets` that could not connect", &what);
            }
        }
        bail!("a process with many sockets ended early")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
