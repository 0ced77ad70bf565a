//! `cargo xtask bench`: the cost of a translated call, compared with the same call in a cgroup without programs,
//! in one run.
//!
//! The two sides alternate, so a machine whose speed changes slows both. A figure is the median over all rounds of
//! a round's median call. The quartiles show the noise of the machine.

mod calls;
mod manifests;
mod sync;

pub(crate) use self::sync::process::Usage;

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use sockline_testbed::{AgentOptions, Node};

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

const BUDGETS: [Budget; 6] = [
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

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(What::Sync(args)) = &args.what {
        return sync::run(args);
    }
    ensure!(args.rounds > 0 && args.services > 0 && args.many > 0, "nothing to measure");
    build::debug()?;
    let mut rows = Vec::new();
    let small: Vec<&Budget> =
        BUDGETS.iter().filter(|budget| !matches!(budget.call, Call::UdpConnectRandom)).collect();
    rows.extend(measure(args.services, args.rounds, &small)?);
    rows.extend(measure(args.many, args.rounds, &[&BUDGETS[5]])?);
    println!();
    term::table(
        &["call", "services", "bare ns", "Sockline ns", "extra ns", "quartiles", "ratio", "budget"],
        &rows,
    );
    Ok(())
}

fn measure(services: u32, rounds: usize, budgets: &[&Budget]) -> Result<Vec<Vec<String>>> {
    let node = Node::new()?;
    fs::write(node.manifests().join("services.json"), manifests::services(services).to_string())?;
    term::doing("agent", &format!("{services} services"));
    let options =
        AgentOptions { ready_within: Duration::from_secs(120), ..AgentOptions::default() };
    let _agent = node.agent(&options).context("starting the agent")?;
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
        .map(|(budget, samples)| row(budget, services, &samples))
        .collect())
}

fn row(budget: &Budget, services: u32, samples: &Samples) -> Vec<String> {
    let (bare, ours) = (calls::median(&samples.bare), calls::median(&samples.ours));
    let mut extra: Vec<i64> =
        samples.ours.iter().zip(&samples.bare).map(|(ours, bare)| ours - bare).collect();
    extra.sort_unstable();
    let quartile = |part: usize| extra[(extra.len() - 1) * part / 4];
    vec![
        budget.name.to_owned(),
        services.to_string(),
        bare.to_string(),
        ours.to_string(),
        quartile(2).to_string(),
        format!("{} … {}", quartile(1), quartile(3)),
        format!("{:.3}", ours as f64 / bare as f64),
        budget.nanoseconds.to_string(),
    ]
}
