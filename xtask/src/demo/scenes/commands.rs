//! The output of the agent's commands, and its metrics.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{demo::Demo, term};

const LINES: usize = 24;

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let agent = demo.cluster.agent.as_ref().context("the agent is running")?;
    let commands: [&[&str]; 3] =
        [&["status"], &["services"], &["backends", "boutique/currencyservice"]];
    for words in commands {
        let command = words.join(" ");
        println!("  {}", term::paint(term::BOLD, &format!("$ sockline {command}")));
        match agent.cli(words) {
            Ok(text) => show(&text),
            Err(error) => println!("  {error:#}"),
        }
        let parsed = agent
            .cli(&[words, &["-o", "json"]].concat())
            .and_then(|text| serde_json::from_str::<Value>(&text).context("reading the output"));
        demo.checks.claim(
            parsed.is_ok(),
            &format!("`sockline {command} -o json` is JSON for other programs"),
        );
        println!();
    }
    let metrics = agent.metrics().unwrap_or_default();
    let samples = metrics.lines().filter(|line| line.starts_with("sockline_")).count();
    demo.checks.claim(samples > 0, &format!("/metrics has {samples} samples for Prometheus"));
    Ok(())
}

/// Prints the first lines of an output.
fn show(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(LINES) {
        println!("    {line}");
    }
    if lines.len() > LINES {
        println!(
            "    {}",
            term::paint(term::DIM, &format!("… {} more lines", lines.len() - LINES))
        );
    }
    println!();
}
