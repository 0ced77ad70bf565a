//! The measured agent with its cluster, and the measurements. Each returns rows of the table.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sockline_testbed::{
    Agent, AgentOptions, Metrics, Node,
    api::{Api, Server},
};

use super::{CPU_BUDGET, RATES, Size, cluster::Cluster, latency::Latency, process::Usage};
use crate::term;

/// Fields are dropped in this order.
pub(super) struct RunningAgent {
    agent: Agent,
    _server: Server,
    cluster: Cluster,
    node: Node,
    options: AgentOptions,
    started: Instant,
    ready: Duration,
}

impl RunningAgent {
    pub(super) fn start(size: &Size, binary: &Path) -> Result<Self> {
        term::doing("cluster", &size.to_string());
        let node = Node::new()?;
        let api = Api::default();
        let cluster = Cluster::fill(api.clone(), size.services, size.endpoints);
        let listener = node.outside().run(|| TcpListener::bind(("127.0.0.1", 0)))?;
        let server = Server::start(&api, listener).context("starting the API server stand-in")?;
        let kubeconfig: PathBuf = server.kubeconfig(node.temp())?;
        term::doing("agent", "starting");
        let options = AgentOptions {
            binary: Some(binary.to_owned()),
            kubeconfig: Some(kubeconfig),
            ready_within: Duration::from_secs(300),
            ..AgentOptions::default()
        };
        let started = Instant::now();
        let agent = node.agent(&options).context("starting the agent")?;
        let ready = started.elapsed();
        Ok(Self { agent, _server: server, cluster, node, options, started, ready })
    }

    fn last_sync(&self) -> Result<Duration> {
        let status: serde_json::Value =
            serde_json::from_str(&self.agent.cli(&["status", "-o", "json"])?)?;
        let took = status["agent"]["lastSyncDuration"].as_str().context("no lastSyncDuration")?;
        go_duration(took).with_context(|| format!("{took:?} is not a duration"))
    }

    pub(super) fn first_sync(&self, size: &Size) -> Result<Vec<Vec<String>>> {
        let took = self.last_sync()?;
        let row = |what: &str, measured: Duration, budget: Option<Duration>| {
            let budget = budget.map_or_else(String::new, term::seconds);
            vec![size.to_string(), what.to_owned(), term::seconds(measured), budget]
        };
        Ok(vec![
            row("start of the agent to ready", self.ready, None),
            row("first full sync", took, size.first_sync),
        ])
    }

    pub(super) fn changes(
        &self,
        rate: u32,
        budget: Duration,
        time: Duration,
    ) -> Result<Vec<Vec<String>>> {
        let what = format!("{rate} changes/s");
        term::doing("measuring", &what);
        let before = self.read()?;
        let sent = self.at_rate(rate, time, |number| self.cluster.change(number));
        let after = self.read_once_programmed(&before, sent)?;
        let row = |what: String, measured: String, budget: String| {
            vec![self.cluster.to_string(), what, measured, budget]
        };
        let latency = |since: &str| Latency::between(&before.metrics, &after.metrics, since);
        let arrival = latency("arrival");
        ensure!(arrival.count() > 0.0, "the agent programmed no change");
        let mut rows = vec![
            row(format!("{what}: event to map, p50"), arrival.quantile(0.5), String::new()),
            row(
                format!("{what}: event to map, p99"),
                arrival.quantile(0.99),
                term::seconds(budget),
            ),
            row(
                format!("{what}: API server to map, p99"),
                latency("trigger").quantile(0.99),
                String::new(),
            ),
        ];
        let cpu_budget =
            if rate == RATES[0].0 { format!("{CPU_BUDGET:.0} %") } else { String::new() };
        rows.push(row(
            format!("{what}: of one core"),
            format!("{:.1} %", after.usage.cpu_share(&before.usage) * 100.0),
            cpu_budget,
        ));
        Ok(rows)
    }

    /// A service with ten thousand endpoints gets half of the changes, all others the other half.
    pub(super) fn largest_service(&self, time: Duration) -> Result<Vec<Vec<String>>> {
        term::doing("measuring", "100 changes/s, half of them of a service of 10,000 endpoints");
        self.cluster.add_largest();
        let before = self.read()?;
        let sent = self.at_rate(100, time, |number| {
            if number % 2 == 0 {
                self.cluster.change(number / 2);
            } else {
                self.cluster.change_largest(number / 2);
            }
        });
        let after = self.read_once_programmed(&before, sent)?;
        // The agent merges changes of the largest service, so the faster half is that of the others.
        let arrival = Latency::between(&before.metrics, &after.metrics, "arrival");
        let row = |what: &str, measured: String| {
            vec![self.cluster.to_string(), what.to_owned(), measured, String::new()]
        };
        Ok(vec![
            row("beside a busy service of 10,000: p49.5 of all", arrival.quantile(0.495)),
            row("a busy service of 10,000: p99", arrival.quantile(0.99)),
            row(
                "with it: of one core",
                format!("{:.1} %", after.usage.cpu_share(&before.usage) * 100.0),
            ),
        ])
    }

    /// How long a scrape takes once each service port was used, so that all have their series.
    pub(super) fn scrape(&self, budget: Duration) -> Result<Vec<String>> {
        const SCRAPES: usize = 5;
        term::doing("measuring", "a scrape with every service in use");
        let services = self.cluster.service_addresses();
        self.node.run(|| {
            for address in services {
                // There is no route to the endpoints.
                let _ = TcpStream::connect((address, 80));
            }
        });
        let mut took = Vec::new();
        let mut bytes = 0;
        for _ in 0..SCRAPES {
            let began = Instant::now();
            bytes = self.agent.metrics()?.len();
            took.push(began.elapsed());
        }
        took.sort_unstable();
        let what = format!("/metrics with every service in use ({} MB)", bytes / 1_000_000);
        let (median, budget) = (term::seconds(took[SCRAPES / 2]), term::seconds(budget));
        Ok(vec![self.cluster.to_string(), what, median, budget])
    }

    /// How long commands and a scrape take.
    pub(super) fn commands(&self) -> Result<Vec<Vec<String>>> {
        let status = || self.agent.cli(&["status"]).map(drop);
        let services = || self.agent.cli(&["services"]).map(drop);
        let metrics = || self.agent.metrics().map(drop);
        let asked: [(&str, &dyn Fn() -> Result<()>); 3] = [
            ("sockline status", &status),
            ("sockline services", &services),
            ("/metrics", &metrics),
        ];
        asked
            .into_iter()
            .map(|(what, ask)| {
                let began = Instant::now();
                ask()?;
                let took = term::seconds(began.elapsed());
                Ok(vec![self.cluster.to_string(), what.to_owned(), took, String::new()])
            })
            .collect()
    }

    /// How long the next agent takes to take over the maps of one that has ended.
    pub(super) fn restart(&mut self) -> Result<Vec<Vec<String>>> {
        term::doing("measuring", "a restart");
        let entries = |running: &Self, map: &str| -> Result<f64> {
            Ok(running.read()?.metrics.sum("sockline_bpf_map_entries", &[("map", map)]))
        };
        let before = entries(self, "backends")?;
        self.agent.stop()?;
        let began = Instant::now();
        self.agent = self.node.agent(&self.options).context("starting the next agent")?;
        let ready = began.elapsed();
        let after = entries(self, "backends")?;
        ensure!(
            after <= before,
            "{after} backends instead of {before}: the new agent gave them other ids"
        );
        let took = self.last_sync()?;
        let row = |what: &str, measured: Duration| {
            vec![self.cluster.to_string(), what.to_owned(), term::seconds(measured), String::new()]
        };
        Ok(vec![row("restart: start to ready", ready), row("restart: first full sync", took)])
    }

    pub(super) fn memory(&self, size: &Size) -> Result<Vec<String>> {
        let usage = Usage::of(self.agent.pid())?;
        Ok(vec![
            size.to_string(),
            "memory of the agent (highest)".to_owned(),
            format!("{} MB ({} MB)", usage.resident / 1_000_000, usage.highest / 1_000_000),
            format!("{} MB", size.megabytes),
        ])
    }

    /// Changes something at a steady rate; returns how often.
    fn at_rate(&self, rate: u32, time: Duration, mut change: impl FnMut(u32)) -> u32 {
        let began = Instant::now();
        let interval = Duration::from_secs(1) / rate;
        let mut number = 0;
        while began.elapsed() < time {
            change(number);
            number += 1;
            let next = began + interval * number;
            // Keeps the rate; does not wait for a condition.
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        number
    }

    fn read(&self) -> Result<Reading> {
        let metrics = Metrics::parse(&self.agent.metrics()?);
        Ok(Reading { metrics, usage: Usage::of(self.agent.pid())? })
    }

    /// Waits until the agent has programmed as many changes as were sent, and reads then.
    fn read_once_programmed(&self, before: &Reading, sent: u32) -> Result<Reading> {
        let count = |reading: &Reading| {
            reading
                .metrics
                .sum("sockline_network_programming_duration_seconds_count", &[("since", "arrival")])
        };
        let wanted = count(before) + f64::from(sent);
        let usage = self.read()?.usage;
        sockline_testbed::wait_ok(
            sockline_testbed::DEADLINE,
            "all changes to be programmed",
            || {
                let reading = self.read()?;
                let seen = count(&reading);
                ensure!(seen >= wanted, "{seen} of {wanted} changes");
                Ok(Reading { usage: usage.clone(), ..reading })
            },
        )
        .with_context(|| format!("{:.0} s after the start", self.started.elapsed().as_secs_f64()))
    }
}

struct Reading {
    metrics: Metrics,
    usage: Usage,
}

/// Reads a duration as Go writes it: `250.5ms`, `1m2s`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, unit) = rest.split_at(rest.find(|c: char| c.is_alphabetic())?);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let scale = match &unit[..end] {
            "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            _ => return None,
        };
        sum += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()?;
        rest = &unit[end..];
    }
    Some(sum)
}
