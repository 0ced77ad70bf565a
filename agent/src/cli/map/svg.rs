//! The map as a picture that stands alone: no scripts, no fonts to load, for light and dark pages. Pure.

use std::fmt::Write as _;

use super::{
    document::Traffic,
    dot::width,
    layout::{
        self, BACKEND_LEFT, BACKEND_WIDTH, CLIENT_HEIGHT, CLIENT_WIDTH, ClientBox, MARGIN, ROW,
        SERVICE_LEFT, SERVICE_WIDTH, ServiceBox, WIDTH,
    },
    view::{Node, View},
};
use crate::cli::output::units;

/// The width of a character, as monospaced fonts of this size have it.
const CHARACTER: f64 = 7.5;

const STYLE: &str = "\
text { font: 12px 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #1f2328; }
.title, .name { font-weight: bold; }
.title { font-size: 14px; }
.quiet { fill: #59636e; }
.bad { fill: #cf222e; font-weight: bold; }
.paper { fill: #ffffff; }
.box { fill: #f6f8fa; stroke: #d1d9e0; }
.service { stroke: #0969da; }
.rest { stroke-dasharray: 4 3; }
.edge { fill: none; stroke: #0969da; stroke-opacity: 0.65; }
.edge.idle { stroke: #818b98; }
.edge.failing { stroke: #cf222e; stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.quiet { fill: #9198a1; }
.bad { fill: #ff7b72; }
.paper { fill: #0d1117; }
.box { fill: #151b23; stroke: #3d444d; }
.service { stroke: #4493f8; }
.edge { stroke: #4493f8; }
.edge.idle { stroke: #656c76; }
.edge.failing { stroke: #ff7b72; }
}
";

#[must_use]
pub fn render(view: &View) -> String {
    let layout = layout::of(view);
    let height = layout.height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH:.0}\" height=\"{height:.0}\"/>\n",
        title = xml(&view.title)
    );
    text(&mut svg, "title", (MARGIN, 28.0), &view.title);
    // Below the boxes.
    for client in &layout.clients {
        for (row, traffic) in &client.edges {
            let from = (MARGIN + CLIENT_WIDTH, client.top + CLIENT_HEIGHT / 2.0);
            edge(&mut svg, from, (SERVICE_LEFT, *row), traffic);
        }
    }
    for service in &layout.services {
        for (place, backend) in service.service.backends.iter().enumerate() {
            let row = service.row(place);
            let from = (SERVICE_LEFT + SERVICE_WIDTH, row);
            edge(&mut svg, from, (BACKEND_LEFT, row), &backend.traffic);
        }
    }
    layout.clients.iter().for_each(|client| of_client(&mut svg, client));
    layout.services.iter().for_each(|service| of_service(&mut svg, service));
    let legend = "Line width, n/s: connections per second. Grey: none in this time. Red: some were not established. ↑ ↓ bytes of clients.";
    text(&mut svg, "quiet", (MARGIN, height - 14.0), legend);
    svg + "</svg>\n"
}

fn of_client(svg: &mut String, ClientBox { top, node, .. }: &ClientBox<'_>) {
    box_of(svg, node, "box", (MARGIN, *top), (CLIENT_WIDTH, CLIENT_HEIGHT), &node.label());
    let left = MARGIN + 8.0;
    if node.kind.is_empty() {
        text(svg, "name", (left, top + 23.0), &shortened(&node.name, CLIENT_WIDTH));
    } else {
        text(svg, "name", (left, top + 16.0), &shortened(&node.name, CLIENT_WIDTH));
        text(svg, "quiet", (left, top + 31.0), &shortened(&node.kind, CLIENT_WIDTH));
    }
    svg.push_str("</g>\n");
}

fn of_service(svg: &mut String, placed: &ServiceBox<'_>) {
    let ServiceBox { top, height, service } = placed;
    let Traffic { active, rates, failed, .. } = &service.traffic;
    let _ = writeln!(
        svg,
        "<g><title>{}: {} opened, {failed} failed</title>\n\
         <rect class=\"box service\" x=\"{SERVICE_LEFT}\" y=\"{top:.1}\" width=\"{SERVICE_WIDTH}\" height=\"{height:.1}\" rx=\"6\"/>",
        xml(&service.name),
        service.traffic.opened
    );
    let left = SERVICE_LEFT + 10.0;
    text(svg, "name", (left, top + 18.0), &shortened(&service.name, SERVICE_WIDTH));
    let numbers = format!(
        "{}/s, {} active, ↑{}/s ↓{}/s",
        units::rate(rates.opened),
        units::count(*active),
        units::bytes(rates.sent_bytes.round() as u64),
        units::bytes(rates.received_bytes.round() as u64),
    );
    text(svg, "quiet", (left, top + 36.0), &shortened(&numbers, SERVICE_WIDTH));
    for (place, client) in service.clients.iter().enumerate() {
        rate(svg, (left, placed.row(place) + 4.0), "start", &client.traffic);
    }
    let right = SERVICE_LEFT + SERVICE_WIDTH - 10.0;
    for (place, backend) in service.backends.iter().enumerate() {
        rate(svg, (right, placed.row(place) + 4.0), "end", &backend.traffic);
    }
    svg.push_str("</g>\n");
    for (place, backend) in service.backends.iter().enumerate() {
        let row = placed.row(place);
        let (at, size) = ((BACKEND_LEFT, row - ROW / 2.0 + 1.0), (BACKEND_WIDTH, ROW - 2.0));
        box_of(svg, backend, "box", at, size, &backend.name);
        let name = shortened(&backend.name, BACKEND_WIDTH);
        text(svg, "", (BACKEND_LEFT + 8.0, row + 4.0), &name);
        svg.push_str("</g>\n");
    }
}

/// Opens a group with a box, and with what a pointer at it shows.
fn box_of(
    svg: &mut String,
    node: &Node,
    class: &str,
    (left, top): (f64, f64),
    (width, height): (f64, f64),
    label: &str,
) {
    let rest = if node.is_rest { " rest" } else { "" };
    let _ = writeln!(
        svg,
        "<g><title>{}: {} opened, {} failed</title>\n\
         <rect class=\"{class}{rest}\" x=\"{left}\" y=\"{top:.1}\" width=\"{width}\" height=\"{height:.1}\" rx=\"4\"/>",
        xml(label),
        node.traffic.opened,
        node.traffic.failed
    );
}

fn edge(svg: &mut String, from: (f64, f64), to: (f64, f64), traffic: &Traffic) {
    let rates = &traffic.rates;
    let class = match rates {
        _ if rates.failed > 0.0 => "edge failing",
        _ if rates.opened <= 0.0 => "edge idle",
        _ => "edge",
    };
    let bend = f64::midpoint(from.0, to.0);
    let _ = writeln!(
        svg,
        "<path class=\"{class}\" stroke-width=\"{:.1}\" d=\"M{} {:.1} C{bend} {:.1} {bend} {:.1} {} {:.1}\"/>",
        width(rates.opened) * 1.5,
        from.0,
        from.1,
        from.1,
        to.1,
        to.0,
        to.1
    );
}

/// The rate of an edge at its end, with what fails.
fn rate(svg: &mut String, (x, y): (f64, f64), anchor: &str, traffic: &Traffic) {
    let rates = &traffic.rates;
    let opened = xml(&format!("{}/s", units::rate(rates.opened)));
    let failed = if rates.failed > 0.0 {
        let failed = xml(&format!("{} failed/s", units::rate(rates.failed)));
        format!(" <tspan class=\"bad\">{failed}</tspan>")
    } else {
        String::new()
    };
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{opened}{failed}</text>"
    );
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(svg, "<text{class} x=\"{x}\" y=\"{y:.1}\">{}</text>", xml(text));
}

/// Shortens a text to the width of a box, in its middle: both ends tell names apart.
fn shortened(text: &str, width: f64) -> String {
    let room = ((width - 16.0) / CHARACTER) as usize;
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= room {
        return text.to_owned();
    }
    let (front, back) = (room / 2, room - room / 2 - 1);
    let front: String = characters[..front].iter().collect();
    let back: String = characters[characters.len() - back..].iter().collect();
    format!("{front}…{back}")
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
