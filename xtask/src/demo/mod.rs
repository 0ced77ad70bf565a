//! `cargo xtask demo`: a shop of services and pods on this machine, and what Sockline does for it.
//!
//! Each section shows one promise and checks it; a promise that does not hold fails the demo.

mod act;
mod checks;
mod interrupt;
mod keep;
mod manifests;
mod shop;
mod stage;

use std::{env, time::Instant};

use anyhow::{Result, bail};
use sockline_testbed::AgentOptions;

use self::{checks::Checks, interrupt::Interrupt, stage::Stage};
use crate::{build, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running in the end, and say how to play with it, until Enter or Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// What every section works with.
struct Demo {
    stage: Stage,
    checks: Checks,
    interrupt: Interrupt,
}

/// One section: its title, and what it shows and checks.
type Act = (&'static str, fn(&mut Demo) -> Result<()>);

const ACTS: [Act; 8] = [
    ("Clients dial service addresses and reach pods directly", act::dial::play),
    ("Connections spread evenly over the endpoints", act::spread::play),
    ("The client sees the service, the wire sees the pod", act::wire::play),
    ("No NAT and no proxy: what was on the wire so far", act::packets::play),
    ("An endpoint leaves and comes back", act::endpoint::play),
    ("A service without endpoints refuses at once", act::refuse::play),
    ("A pod that wants to be left alone is left alone", act::left_alone::play),
    ("What the agent says about it", act::views::play),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let start = Instant::now();
    if env::var_os("SOCKLINE_BIN").is_none() {
        term::doing("build", "the agent and its kernel programs");
        build::run(&build::Args::debug())?;
    }
    interrupt.check()?;

    let mut stage = Stage::build(&interrupt)?;
    let ready = Instant::now();
    stage.start_agent(&AgentOptions::default())?;
    term::ok(
        "agent",
        &format!("first sync in the kernel after {}", term::seconds(ready.elapsed())),
    );

    let mut demo = Demo { stage, checks: Checks::default(), interrupt };
    for (number, (title, play)) in (1..).zip(ACTS) {
        demo.interrupt.check()?;
        term::section(number, title);
        play(&mut demo)?;
    }
    if args.keep {
        keep::wait(&demo);
    }
    let Demo { stage, checks, .. } = demo;
    drop(stage);
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
