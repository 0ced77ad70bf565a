//! `cargo xtask demo`: Sockline at work on a shop of services and pods on this machine.
//!
//! Each scene shows one promise and checks it. A promise that does not hold fails the demo.

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

use self::checks::Checks;
pub(crate) use self::{cluster::Cluster, interrupt::Interrupt};
use crate::{build, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep everything running at the end, print commands to try, and wait for Enter or Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Shared by all scenes.
struct Demo {
    cluster: Cluster,
    checks: Checks,
    interrupt: Interrupt,
}

/// The title of a scene, and the function that shows and checks it.
type Scene = (&'static str, fn(&mut Demo) -> Result<()>);

const SCENES: [Scene; 8] = [
    ("Clients connect to service addresses and reach pods directly", scenes::connect::play),
    ("Connections are distributed evenly over the endpoints", scenes::distribution::play),
    ("Sockets have the service's address, packets the pod's", scenes::wire::play),
    ("No NAT and no proxy: all packets so far", scenes::packets::play),
    ("An endpoint leaves and comes back", scenes::endpoint::play),
    ("A service without endpoints refuses at once", scenes::refuse::play),
    ("A pod with the exclusion label is excluded", scenes::exclusion::play),
    ("Commands and metrics of the agent", scenes::commands::play),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let start = Instant::now();
    if env::var_os("SOCKLINE_BIN").is_none() {
        term::doing("build", "the agent with its kernel programs");
        build::debug()?;
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
