//! Many connections to a few services, and their distribution.

use std::time::Instant;

use anyhow::{Context, Result};
use sockline_testbed::Protocol;

use crate::{demo::Demo, term};

const CONNECTIONS: u32 = 600;

/// Six standard deviations of the smallest share here (a third of 600) are 69 connections, so a deviation above this
/// is not chance.
const TOLERANCE: f64 = 0.35;

const SERVICES: [(&str, Protocol); 4] = [
    ("currencyservice", Protocol::Tcp),
    ("productcatalogservice", Protocol::Tcp),
    ("cartservice", Protocol::Tcp),
    ("kube-dns", Protocol::Udp),
];

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let mut even = 0;
    for (service, protocol) in SERVICES {
        demo.interrupt.check()?;
        let frontend = demo.cluster.shop.frontend(service, protocol)?;
        let start = Instant::now();
        let answers = demo
            .cluster
            .ask_many(frontend, CONNECTIONS)
            .with_context(|| format!("asking {service} {CONNECTIONS} times"))?;
        println!(
            "  {}  {CONNECTIONS} {} sockets in {}",
            term::paint(term::BOLD, service),
            frontend.protocol,
            term::seconds(start.elapsed())
        );
        // Each endpoint has a bar, even if it was never chosen.
        let rows: Vec<(String, u64)> = frontend
            .pods
            .iter()
            .map(|pod| (pod.clone(), answers.get(pod).copied().unwrap_or(0)))
            .collect();
        term::bars(&rows);
        println!();
        let share = f64::from(CONNECTIONS) / rows.len() as f64;
        let total: u64 = rows.iter().map(|(_, count)| count).sum();
        let fair = rows.iter().all(|(_, count)| (*count as f64 - share).abs() <= share * TOLERANCE);
        even += usize::from(fair && total == u64::from(CONNECTIONS));
    }
    demo.checks.claim(
        even == SERVICES.len(),
        &format!(
            "{even} of {} services used all of their endpoints, each within {:.0} % of an equal share",
            SERVICES.len(),
            TOLERANCE * 100.0
        ),
    );
    Ok(())
}
