//! The map in the language of Graphviz. Pure.

use std::fmt::Write as _;

use super::{
    document::Traffic,
    view::{Service, View},
};
use crate::cli::output::units;

#[must_use]
pub fn render(view: &View) -> String {
    let mut dot = format!(
        "digraph sockline {{\n  graph [rankdir=LR, labelloc=t, label={}];\n  node [shape=box, style=rounded];\n",
        quoted(&view.title)
    );
    for service in &view.services {
        of_service(&mut dot, service);
    }
    dot + "}\n"
}

fn of_service(dot: &mut String, service: &Service) {
    let id = quoted(&format!("service {}", service.name));
    let numbers = format!(
        "{} conn/s, {} active",
        units::rate(service.traffic.rates.opened),
        units::count(service.traffic.active)
    );
    let label = quoted_lines(&[&service.name, &numbers]);
    let _ = writeln!(dot, "  {id} [label={label}, style=\"rounded,bold\"];");
    for client in &service.clients {
        // A client of several services is one node, the rest of a service's clients is the service's own.
        let own = if client.is_rest { &*service.name } else { "" };
        let client_id = quoted(&format!("client {} {own}", client.label()));
        let label = quoted_lines(&[&client.name, &client.kind]);
        let _ = writeln!(dot, "  {client_id} [label={label}];");
        let _ = writeln!(dot, "  {client_id} -> {id} [{}];", edge(&client.traffic));
    }
    for backend in &service.backends {
        let backend_id = quoted(&format!("backend {} {}", service.name, backend.name));
        let label = quoted(&backend.name);
        let _ = writeln!(dot, "  {backend_id} [label={label}];");
        let _ = writeln!(dot, "  {id} -> {backend_id} [{}];", edge(&backend.traffic));
    }
}

fn edge(traffic: &Traffic) -> String {
    let rates = &traffic.rates;
    let mut label = format!("{}/s", units::rate(rates.opened));
    let mut style = String::new();
    if rates.failed > 0.0 {
        let _ = write!(label, ", {} failed/s", units::rate(rates.failed));
        style.push_str(", color=red, style=dashed");
    }
    format!("label={}, penwidth={:.1}{style}", quoted(&label), width(rates.opened))
}

/// The width of an edge: one more for each power of ten.
#[must_use]
pub fn width(rate: f64) -> f64 {
    1.0 + rate.max(0.0).ln_1p() / std::f64::consts::LN_10
}

/// Lines of a label, without those that are empty.
fn quoted_lines(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| !line.is_empty()).map(|line| escaped(line));
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
