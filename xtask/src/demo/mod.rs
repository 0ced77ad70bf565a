//! `cargo xtask demo`: a shop of services and pods on this machine, and what Sockline does for it.
//!
//! Each section shows one promise and checks it; a promise that does not hold fails the demo.

mod checks;
mod cluster;
mod interrupt;
mod keep;
mod manifests;
mod scenes;
mod shop;

use std::{env, time::Instant};

use anyhow::{Result, bail};
use sockline_testbed::AgentOptions;

use self::{checks::Checks, cluster::Cluster, interrupt::Interrupt};
use crate::{build, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running in the end, and say how to play with it, until Enter or Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// What every section works with.
struct Demo {
    cluster: Cluster,
    checks: Checks,
    interrupt: Interrupt,
}

/// One section: its title, and what it shows and checks.
type Scene = (&'static str, fn(&mut Demo) -> Result<()>);

const SCENES: [Scene; 8] = [
    ("Clients dial service addresses and reach pods directly", scenes::dial::play),
    ("Connections spread evenly over the endpoints", scenes::spread::play),
    ("The client sees the service, the wire sees the pod", scenes::wire::play),
    ("No NAT and no proxy: what was on the wire so far", scenes::packets::play),
    ("An endpoint leaves and comes back", scenes::endpoint::play),
    ("A service without endpoints refuses at once", scenes::refuse::play),
    ("A pod that wants to be left alone is left alone", scenes::exclusion::play),
    ("What the agent says about it", scenes::views::play),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let start = Instant::now();
    if env::var_os("SOCKLINE_BIN").is_none() {
        term::doing("build", "the agent and its kernel programs");
        build::run(&build::Args::debug())?;
    }
    interrupt.check()?;

    let mut cluster = Cluster::build(&interrupt)?;
    let ready = Instant::now();
    cluster.start_agent(&AgentOptions::default())?;
    term::ok(
        "agent",
        &format!("first sync in the kernel after {}", term::seconds(ready.elapsed())),
    );

    let mut demo = Demo { cluster, checks: Checks::default(), interrupt };
    for (number, (title, play)) in (1..).zip(SCENES) {
        demo.interrupt.check()?;
        term::section(number, title);
        play(&mut demo)?;
    }
    if args.keep {
        keep::wait(&demo);
    }
    let Demo { cluster, checks, .. } = demo;
    drop(cluster);
    println!();
    if !checks.failed().is_empty() {
        bail!(
            "{} of {} claims did not hold: {}",
            checks.failed().len(),
            checks.made(),
            checks.failed().join("; ")
        );
    }
    term::ok(
        "done",
        &format!(
            "{} claims held, everything removed, {} in all",
            checks.made(),
            term::seconds(start.elapsed())
        ),
    );
    Ok(())
}
