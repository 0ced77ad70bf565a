//! The map as text: a tree for each service port, with aligned numbers. Pure.

use std::fmt::Write as _;

use super::{
    document::Traffic,
    view::{Service, View},
};
use crate::cli::output::units;

const COLUMNS: [&str; 7] = ["CONN/S", "ACTIVE", "FAIL/S", "SENT/S", "RECV/S", "OPENED", "FAILED"];
const WIDTH: usize = 8;

#[must_use]
pub fn render(view: &View) -> String {
    let mut text = format!("{}\n", view.title);
    if view.services.is_empty() {
        return text;
    }
    let trees: Vec<_> = view.services.iter().map(rows).collect();
    let lengths = trees.iter().flatten().map(|(name, _)| name.chars().count());
    let width = lengths.max().unwrap_or(0);
    let heads = COLUMNS.map(ToOwned::to_owned);
    line(&mut text, "", width, &heads);
    for tree in trees {
        for (name, traffic) in tree {
            line(&mut text, &name, width, &cells(&traffic));
        }
        text.push('\n');
    }
    text.pop();
    text
}

fn rows(service: &Service) -> Vec<(String, Traffic)> {
    let mut rows = vec![(service.name.clone(), service.traffic)];
    let clients = service.clients.iter().map(|client| ("from", client));
    let backends = service.backends.iter().map(|backend| ("to  ", backend));
    let edges: Vec<_> = clients.chain(backends).collect();
    for (place, (direction, node)) in edges.iter().enumerate() {
        let branch = if place + 1 == edges.len() { "└─" } else { "├─" };
        rows.push((format!("{branch} {direction} {}", node.label()), node.traffic));
    }
    rows
}

fn cells(traffic: &Traffic) -> [String; COLUMNS.len()] {
    let bytes = |rate: f64| units::bytes(rate.round() as u64);
    [
        units::rate(traffic.rates.opened),
        units::count(traffic.active),
        units::rate(traffic.rates.failed),
        bytes(traffic.rates.sent_bytes),
        bytes(traffic.rates.received_bytes),
        units::count(traffic.opened),
        units::count(traffic.failed),
    ]
}

fn line(text: &mut String, name: &str, width: usize, cells: &[String]) {
    let _ = write!(text, "{name:<width$}");
    for cell in cells {
        let _ = write!(text, " {cell:>WIDTH$}");
    }
    text.push('\n');
}
