//! `cargo xtask dashboards`: draws the Grafana dashboards of `deploy/monitoring` as pictures, from a real Prometheus that
//! scrapes a real agent at work.
//!
//! Grafana itself is not needed. [`panels`] reads the dashboards' JSON, [`data`] asks Prometheus, [`draw`] makes SVG.

mod data;
mod draw;
mod panels;

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use sockline_testbed::{AgentOptions, Prometheus};

use self::{
    data::Period,
    draw::{DARK, LIGHT},
    panels::Dashboard,
};
use crate::{
    build,
    demo::{Cluster, Interrupt},
    repo, term,
};

/// The name of the node in the pictures.
const NODE: &str = "worker-1";
const NAMESPACE: &str = "boutique";
/// The Service whose dashboard is drawn.
const SERVICE: &str = "currencyservice";
/// The Service that loses its endpoints for a part of the time.
const FAILING: &str = "adservice";

/// Connections that are held open.
const OPEN: usize = 40;
/// Of those; some addresses are of UDP services.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long clients connect before the pictures are drawn
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    seconds: u64,
    /// Where to write the pictures
    #[arg(long, value_name = "DIR", default_value = "target/dashboards")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let dashboards = panels::read(&repo::root().join("deploy/monitoring/dashboards"))?;
    let interrupt = Interrupt::install()?;
    term::doing("build", "the agent with its kernel programs");
    build::debug()?;
    let mut cluster = Cluster::build(&interrupt)?;
    cluster.start_agent(&AgentOptions::default())?;
    let agent = cluster.agent.as_ref().context("the agent was just started")?;
    let prometheus = Prometheus::start(cluster.node.outside(), "groups: []")?;
    prometheus.set_targets(&[(NODE, agent.listen())])?;

    let duration = Duration::from_secs(args.seconds);
    term::doing("load", &format!("connections to the shop for {} s", args.seconds));
    let start = SystemTime::now();
    load(&cluster, duration, &interrupt)?;
    let period = Period::new(start, SystemTime::now())?;

    let folder = repo::root().join(&args.folder);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for dashboard in &dashboards {
        let drawn = ask(dashboard, &prometheus, period)?;
        for theme in [&LIGHT, &DARK] {
            let file = folder.join(format!("{}-{}.svg", dashboard.name, theme.name));
            let picture = draw::dashboard(&dashboard.title, &drawn, period, theme);
            fs::write(&file, picture).with_context(|| format!("writing {}", file.display()))?;
            term::ok("drawn", &file.display().to_string());
        }
    }
    Ok(())
}

/// The panels, with what Prometheus has for each of their queries.
fn ask<'a>(
    dashboard: &'a Dashboard,
    prometheus: &Prometheus<'_>,
    period: Period,
) -> Result<Vec<(&'a panels::Panel, Vec<data::Series>)>> {
    let variables = [("namespace", NAMESPACE), ("service", SERVICE), ("instance", NODE)];
    let of_panel = |panel: &'a panels::Panel| {
        let series = data::series(prometheus, panel, &variables, period)
            .with_context(|| format!("{}: {}", dashboard.title, panel.title))?;
        Ok((panel, series))
    };
    dashboard.panels.iter().map(of_panel).collect()
}

/// Clients connect to all services of the shop, at a rate that goes up and down. One service has no endpoints in the
/// third quarter.
fn load(cluster: &Cluster, duration: Duration, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    let mut open = Vec::new();
    let mut removed = None;
    let mut was_removed = false;
    while start.elapsed() < duration {
        interrupt.check()?;
        let progress = start.elapsed().as_secs_f64() / duration.as_secs_f64();
        if progress > 0.5 && !was_removed {
            removed = Some(cluster.manifests.remove_endpoints(FAILING, None)?);
            was_removed = true;
        }
        if progress > 0.75
            && let Some(before) = removed.take()
        {
            cluster.manifests.put_back(&before)?;
        }
        let frontends = &cluster.shop.frontends;
        let calls = 20.0 + 15.0 * (progress * 12.0).sin();
        for _ in 0..calls as u32 {
            let frontend = &frontends[fastrand::usize(..frontends.len())];
            // Refusals are a part of the picture.
            let _ = cluster.ask(frontend);
        }
        let address = frontends[fastrand::usize(..frontends.len())].address;
        open.extend(cluster.client.run(|| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)));
        if open.len() > OPEN {
            open.remove(fastrand::usize(..OPEN));
        }
        interrupt.wait(Duration::from_millis(100))?;
    }
    if let Some(before) = removed {
        cluster.manifests.put_back(&before)?;
    }
    Ok(())
}
