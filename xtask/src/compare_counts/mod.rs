//! `cargo xtask compare-counts`: holds what Sockline counts of connections against what real servers and clients count
//! themselves.
//!
//! The tests count with sockets of their own. This is the check that the counts were not made to fit those: nginx, redis,
//! PostgreSQL and dnsmasq serve in pods of the testbed, and their usual load generators connect through services.
//! A file for each server makes its [`comparison`]; each run has a service and a server of its own, so that all counts begin at 0.

mod comparison;
mod dnsmasq;
mod nginx;
mod packages;
mod postgresql;
mod processes;
mod redis;
mod sockline;
mod wrk;

use std::{cell::Cell, env, net::SocketAddr};

use anyhow::{Result, bail};
use sockline_testbed::{Cluster, Endpoint, Ns, Pod, Service};

use self::{
    comparison::{Row, print},
    packages::Programs,
    processes::{Client, Said},
    sockline::Counted,
};
use crate::{build, demo::Interrupt, term};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each run of wrk takes: it must make its requests in this time
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u32,
}

/// What is compared: the title, and the function that starts the servers, runs the clients and returns the rows.
type Scenario = (&'static str, fn(&mut Bed) -> Result<Vec<Row>>);

const SCENARIOS: [Scenario; 7] = [
    ("nginx and wrk, connections kept alive", nginx::kept_alive),
    ("nginx and wrk, a connection for each request", nginx::closed),
    ("nginx and wrk, half of the endpoints refuse", nginx::refusing),
    ("redis and redis-benchmark, connections kept alive", redis::kept_alive),
    ("redis and redis-benchmark, a connection for each request", redis::reconnecting),
    ("PostgreSQL and pgbench, a connection for each transaction", postgresql::reconnecting),
    ("dnsmasq and dig, over UDP and TCP", dnsmasq::queries),
];

/// The node and the client's pod. Fields are dropped in this order: pods before the node.
struct Bed {
    client: Pod,
    programs: Programs,
    cluster: Cluster,
    interrupt: Interrupt,
    seconds: u32,
    services: Cell<u8>,
}

impl Bed {
    fn new(args: &Args, programs: Programs, interrupt: Interrupt) -> Result<Self> {
        let mut cluster = Cluster::new()?;
        let client = cluster.pod("client")?;
        let (seconds, services) = (args.seconds, Cell::new(0));
        Ok(Self { client, programs, cluster, interrupt, seconds, services })
    }

    /// Makes a service with one port, and returns its addresses: IPv4 and IPv6.
    fn serve(
        &mut self,
        name: &str,
        port: fn(Service) -> Service,
        number: u16,
        pods: &[&Pod],
    ) -> Result<[SocketAddr; 2]> {
        let n = self.services.get() + 1;
        self.services.set(n);
        let (v4, v6) = (format!("10.96.0.{n}"), format!("fd00:96::{n:x}"));
        let service = port(Service::new(name).ip(&v4).ip(&v6));
        let endpoints = pods.iter().map(|pod| Endpoint::from(*pod));
        self.cluster.apply([service.endpoints(endpoints)])?;
        Ok([SocketAddr::new(v4.parse()?, number), SocketAddr::new(v6.parse()?, number)])
    }

    /// Runs a client in its pod to the end.
    fn run(&self, client: Client) -> Result<Said> {
        self.run_in(&self.client, client)
    }

    fn run_in(&self, ns: &Ns, client: Client) -> Result<Said> {
        client.run(ns, self.cluster.node().temp(), &self.interrupt)
    }

    fn counted(&self, service: &str, protocol: sockline_testbed::Protocol) -> Result<Counted> {
        Counted::read(&self.cluster, service, protocol)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let programs = packages::ensure()?;
    if env::var_os("SOCKLINE_BIN").is_none() {
        term::doing("build", "the agent with its kernel programs");
        build::debug()?;
    }
    interrupt.check()?;
    let mut bed = Bed::new(args, programs, interrupt)?;
    let (mut compared, mut different) = (0, 0);
    for (number, (title, scenario)) in (1..).zip(SCENARIOS) {
        bed.interrupt.check()?;
        term::section(number, title);
        let rows = scenario(&mut bed)?;
        print(&rows);
        compared += rows.len();
        different += rows.iter().filter(|row| !row.holds()).count();
    }
    drop(bed);
    println!();
    if different > 0 {
        bail!("{different} of {compared} counts differ");
    }
    term::ok("done", &format!("{compared} counts are equal, everything removed"));
    Ok(())
}
