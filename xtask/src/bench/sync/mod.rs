//! `cargo xtask bench sync`: how soon a change in the cluster is in the kernel, and the agent's CPU time and
//! memory.
//!
//! An optimised agent watches a stand-in for the API server, which changes EndpointSlices at a steady rate. Latency
//! is from the agent's histogram, CPU time and memory are from the kernel.

mod agent;
mod cluster;
mod latency;
pub(crate) mod process;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::agent::RunningAgent;
use crate::{build, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to measure each rate
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,
    /// Measure only this cluster [default: small and large]; large and wide (100,000 services) have a million
    /// endpoints and need 6 GB of memory
    #[arg(long, value_enum)]
    only: Option<Only>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Small,
    Large,
    Wide,
}

/// Changes per second, and the budget for the 99th percentile of their latency.
const RATES: [(u32, Duration); 2] =
    [(100, Duration::from_millis(2)), (1_000, Duration::from_millis(20))];
/// In percent of one core, at the lower rate.
const CPU_BUDGET: f64 = 15.0;

const SMALL: Size = Size { services: 1_000, endpoints: 10, megabytes: 40, first_sync: None };
const LARGE: Size = Size {
    services: 10_000,
    endpoints: 100,
    megabytes: 400,
    first_sync: Some(Duration::from_secs(10)),
};

/// The limits that deploy/docs/limits.md promises.
const WIDE: Size = Size { services: 100_000, endpoints: 10, megabytes: 600, first_sync: None };

/// A cluster, and the budget of an agent for it.
struct Size {
    services: u32,
    endpoints: u32,
    megabytes: u64,
    /// From the arrival of all objects until they are in the kernel.
    first_sync: Option<Duration>,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} services x {} endpoints", self.services, self.endpoints)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.seconds > 0, "--seconds must be greater than 0");
    let binary = build::release()?;
    let mut rows = Vec::new();
    if matches!(args.only, None | Some(Only::Small)) {
        let running = RunningAgent::start(&SMALL, &binary)?;
        rows.extend(running.first_sync(&SMALL)?);
        for (rate, budget) in RATES {
            rows.extend(running.changes(rate, budget, Duration::from_secs(args.seconds))?);
        }
        rows.push(running.memory(&SMALL)?);
        rows.push(running.scrape(Duration::from_millis(20))?);
        rows.extend(running.largest_service(Duration::from_secs(args.seconds))?);
    }
    if args.only == Some(Only::Wide) {
        let mut running = RunningAgent::start(&WIDE, &binary)?;
        rows.extend(running.first_sync(&WIDE)?);
        rows.extend(running.changes(100, RATES[0].1, Duration::from_secs(args.seconds))?);
        rows.push(running.memory(&WIDE)?);
        rows.push(running.scrape(Duration::from_secs(1))?);
        rows.extend(running.commands()?);
        rows.extend(running.restart()?);
        rows.extend(running.commands()?);
        rows.push(running.memory(&WIDE)?);
    }
    if matches!(args.only, None | Some(Only::Large)) {
        let running = RunningAgent::start(&LARGE, &binary)?;
        rows.extend(running.first_sync(&LARGE)?);
        rows.extend(running.changes(100, RATES[0].1, Duration::from_secs(args.seconds))?);
        rows.push(running.memory(&LARGE)?);
    }
    println!();
    term::table(&["cluster", "what", "measured", "budget"], &rows);
    Ok(())
}
