//! `cargo xtask bench`: the cost of a translated call, compared with the same call in a cgroup without programs,
//! in one run.
//!
//! The two sides alternate, so a machine whose speed changes slows both. A figure is the median over all rounds of
//! a round's median call. The quartiles show the noise of the machine.

mod calls;
mod manifests;
mod sync;

pub(crate) use self::sync::process::Usage;

use std::{
    fmt,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sockline_testbed::{Agent, AgentOptions, Metrics, Node};

use self::calls::{Call, Samples};
use crate::{
    build,
    term::{self, Progress},
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Number of services for the calls to one service
    #[arg(long, default_value_t = 1_000)]
    services: u32,
    /// Number of services for the call to a random service
    #[arg(long, default_value_t = 50_000)]
    many: u32,
    /// Number of rounds; each measures every call 400 times on both sides
    #[arg(long, default_value_t = 150)]
    rounds: usize,
}

#[derive(clap::Subcommand)]
enum What {
    /// Measure how soon a change in the cluster is in the kernel, and the agent's memory and CPU time
    Sync(sync::Args),
}

/// The largest additional cost of a call, in nanoseconds.
struct Budget {
    call: Call,
    name: &'static str,
    nanoseconds: i64,
}

const BUDGETS: [Budget; 9] = [
    Budget {
        call: Call::TcpConnect,
        name: "TCP connect(), fresh socket, service",
        nanoseconds: 300,
    },
    Budget {
        call: Call::TcpConnectElsewhere,
        name: "TCP connect(), not a service",
        nanoseconds: 60,
    },
    Budget {
        call: Call::TcpWhole,
        name: "TCP socket + connect + close, service",
        nanoseconds: 500,
    },
    Budget { call: Call::TcpClose, name: "TCP close(), service", nanoseconds: 200 },
    Budget { call: Call::TcpCloseElsewhere, name: "TCP close(), not a service", nanoseconds: 60 },
    Budget { call: Call::TcpRequest, name: "TCP request, open connection", nanoseconds: 60 },
    Budget {
        call: Call::UdpConnect,
        name: "UDP connect(), same socket, service",
        nanoseconds: 200,
    },
    Budget { call: Call::UdpSend, name: "UDP sendto(), service", nanoseconds: 250 },
    Budget {
        call: Call::UdpConnectRandom,
        name: "UDP connect(), random service",
        nanoseconds: 1_000,
    },
];

/// What the programs count and report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telemetry {
    On,
    Off,
    /// On, without counts of clients.
    WithoutClients,
    /// On, and `sockline watch` runs.
    Watched,
}

impl fmt::Display for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::WithoutClients => "on, --client-counts=false",
            Self::Watched => "watched",
        })
    }
}

/// A running `sockline watch`, whose output is dropped.
struct Watcher(Child);

impl Watcher {
    fn start(agent: &Agent) -> Result<Self> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let child = Command::new(agent.binary())
            .args(["watch", "--admin-socket"])
            .arg(agent.admin_socket())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting `sockline watch`")?;
        let this = Self(child);
        let started = Instant::now();
        while Metrics::parse(&agent.metrics()?).sum("sockline_event_watchers", &[]) == 0.0 {
            ensure!(started.elapsed() < TIMEOUT, "the agent knows no watcher after {TIMEOUT:?}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(What::Sync(args)) = &args.what {
        return sync::run(args);
    }
    ensure!(args.rounds > 0 && args.services > 0 && args.many > 0, "nothing to measure");
    build::debug()?;
    let mut rows = Vec::new();
    let small: Vec<&Budget> =
        BUDGETS.iter().filter(|budget| !matches!(budget.call, Call::UdpConnectRandom)).collect();
    for telemetry in [Telemetry::On, Telemetry::WithoutClients, Telemetry::Off, Telemetry::Watched]
    {
        rows.extend(measure(args.services, args.rounds, telemetry, &small)?);
    }
    rows.extend(measure(args.many, args.rounds, Telemetry::On, &[&BUDGETS[8]])?);
    println!();
    term::table(
        &[
            "call",
            "telemetry",
            "services",
            "bare ns",
            "Sockline ns",
            "extra ns",
            "quartiles",
            "ratio",
            "budget",
        ],
        &rows,
    );
    Ok(())
}

fn measure(
    services: u32,
    rounds: usize,
    telemetry: Telemetry,
    budgets: &[&Budget],
) -> Result<Vec<Vec<String>>> {
    let node = Node::new()?;
    manifests::write(&node.manifests(), services).context("writing manifests")?;
    term::doing("agent", &format!("{services} services, telemetry {telemetry}"));
    let options = AgentOptions {
        ready_within: Duration::from_secs(120),
        args: vec![
            "--telemetry".to_owned(),
            if telemetry == Telemetry::Off { "off" } else { "on" }.to_owned(),
            format!("--client-counts={}", telemetry != Telemetry::WithoutClients),
        ],
        ..AgentOptions::default()
    };
    let agent = node.agent(&options).context("starting the agent")?;
    // A call to an address that is not served would cost little.
    let status: Value = serde_json::from_str(&agent.cli(&["status", "-o", "json"])?)?;
    let served = status["frontends"].as_u64().context("`sockline status` has no `frontends`")?;
    ensure!(served == 2 * u64::from(services), "{served} frontends:\n{}", agent.log());
    let _watcher = (telemetry == Telemetry::Watched).then(|| Watcher::start(&agent)).transpose()?;
    // The bare side calls as many destinations that are not services: they must be reachable.
    let route = ["route", "add", manifests::NETWORK, "dev", "lo"];
    let added = node.outside().output(Command::new("ip").args(route))?;
    ensure!(added.status.success(), "ip {route:?}: {}", String::from_utf8_lossy(&added.stderr));
    let server = calls::Server::start(&node)?;
    let address = |ip: std::net::Ipv4Addr| SocketAddr::new(ip.into(), manifests::SERVICE_PORT);
    let targets = calls::Targets {
        backend: manifests::BACKEND,
        service: address(manifests::service_address(0)),
        all: (0..services).map(|number| address(manifests::service_address(number))).collect(),
    };
    let mut samples: Vec<Samples> = budgets.iter().map(|_| Samples::default()).collect();
    let progress = Progress::new("measuring", rounds);
    for _ in 0..rounds {
        for (budget, samples) in budgets.iter().zip(&mut samples) {
            calls::round(&node, &server, budget.call, &targets, samples)
                .with_context(|| format!("measuring {}", budget.name))?;
        }
        progress.step();
    }
    Ok(budgets
        .iter()
        .zip(samples)
        .map(|(budget, samples)| row(budget, telemetry, services, &samples))
        .collect())
}

fn row(budget: &Budget, telemetry: Telemetry, services: u32, samples: &Samples) -> Vec<String> {
    let (bare, ours) = (calls::median(&samples.bare), calls::median(&samples.ours));
    let mut extra: Vec<i64> =
        samples.ours.iter().zip(&samples.bare).map(|(ours, bare)| ours - bare).collect();
    extra.sort_unstable();
    let quartile = |part: usize| extra[(extra.len() - 1) * part / 4];
    vec![
        budget.name.to_owned(),
        telemetry.to_string(),
        services.to_string(),
        bare.to_string(),
        ours.to_string(),
        quartile(2).to_string(),
        format!("{} … {}", quartile(1), quartile(3)),
        format!("{:.3}", ours as f64 / bare as f64),
        budget.nanoseconds.to_string(),
    ]
}
