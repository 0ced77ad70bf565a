//! Pictures of `sockline top`: what it draws of invented samples, as SVG in a light and a dark scheme.

use std::{fmt::Write as _, time::Duration};

use ratatui::{
    buffer::{Buffer, Cell},
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
    style::{Color, Modifier},
};
use sockline::{
    cli::top::{
        sample::{BackendSample, Detail, Node, Opened, Sample, Totals},
        state::State,
        view::{self, Palette, Purpose},
    },
    dataplane::ServiceKey,
    model::{
        object::{ObjectName, Protocol},
        plan::TrafficClass::{self, OtherZone, SameNode, SameZone},
    },
};

/// Columns and rows of the service ports, and of one that is opened: names of clients are long.
const SIZE: (u16, u16) = (112, 15);
const SIZE_OPENED: (u16, u16) = (120, 16);
/// Of a cell, in pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 10.0;

/// A service port: connections per second, active ones, failures of a hundred, bytes each way of a connection, and the
/// bucket of round-trip times.
type Service = (&'static str, &'static str, Protocol, [u64; 5], usize);

const SERVICES: [Service; 10] = [
    ("boutique/cartservice", "grpc", Protocol::Tcp, [120, 35, 0, 900, 2_100], 2),
    ("boutique/currencyservice", "grpc", Protocol::Tcp, [310, 12, 0, 180, 240], 1),
    ("boutique/productcatalogservice", "grpc", Protocol::Tcp, [205, 41, 0, 220, 9_400], 2),
    ("boutique/recommendationservice", "grpc", Protocol::Tcp, [48, 9, 0, 350, 1_200], 5),
    ("boutique/redis-cart", "tcp-redis", Protocol::Tcp, [2, 64, 0, 48_000, 130_000], 3),
    ("boutique/paymentservice", "grpc", Protocol::Tcp, [9, 1, 34, 700, 150], 9),
    ("boutique/frontend", "http", Protocol::Tcp, [75, 18, 0, 1_100, 64_000], 4),
    ("boutique/emailservice", "grpc", Protocol::Tcp, [0, 0, 0, 0, 0], 0),
    ("kube-system/kube-dns", "dns", Protocol::Udp, [890, 21, 0, 0, 0], 0),
    ("default/kubernetes", "https", Protocol::Tcp, [1, 14, 0, 6_200, 88_000], 6),
];

/// The place of the service port that is opened, in [`SERVICES`].
const OPENED: usize = 2;
/// Its backends: the class of traffic, and how many of a hundred connections they have.
const BACKENDS: [(&str, TrafficClass, u64); 5] = [
    ("10.244.1.14:3550", SameNode, 48),
    ("10.244.1.19:3550", SameNode, 22),
    ("10.244.3.7:3550", SameZone, 17),
    ("10.244.2.31:3550", OtherZone, 8),
    ("10.244.5.12:3550", OtherZone, 5),
];
/// Its clients.
const CLIENTS: [(&str, u64); 4] = [
    ("boutique/frontend (Deployment)", 71),
    ("boutique/recommendationservice (Deployment)", 24),
    ("boutique/checkoutservice (Deployment)", 5),
    ("boutique/nightly-report (CronJob)", 0),
];

/// How much of its usual rate each service has in a sample: no two samples of a real node are the same.
fn share(service: usize, sample: u64) -> u64 {
    60 + (sample * 37 + service as u64 * 53 + sample * sample * 11) % 81
}

fn sample(number: u64, totals: &mut [Totals]) -> Sample {
    let services = SERVICES.iter().zip(totals).enumerate();
    let services = services.map(|(place, ((service, port, protocol, numbers, bucket), totals))| {
        let [rate, active, failed, sent, received] = *numbers;
        let opened = rate * 2 * share(place, number) / 100;
        totals.opened += opened;
        totals.active = active;
        totals.failed += opened * failed / 100;
        totals.sent += opened * sent;
        totals.received += opened * received;
        if *protocol == Protocol::Tcp {
            totals.round_trips[*bucket] += opened * 9 / 10;
            totals.round_trips[bucket + 2] += opened - opened * 9 / 10;
        }
        let (namespace, name) = service.split_once('/').expect("the names above have one");
        let key = ServiceKey {
            service: ObjectName::new(namespace, name),
            port_name: (*port).into(),
            protocol: *protocol,
        };
        (key, *totals)
    });
    Sample {
        at: Duration::from_secs(2 * number),
        node: Node { name: "node-a".to_owned(), agent_runs: true, detail: Detail::All },
        services: Some(services.collect()),
        opened: None,
    }
}

/// The backends and clients of a service port that has these totals.
fn opened(key: &ServiceKey, number: u64, of: Totals) -> Opened {
    let part = |percent: u64, place: usize| {
        // Backends are chosen at random, so each has a little more or less.
        let opened = of.opened * percent / 100 + number * (place as u64 * 7 + number) % 5;
        // Answers are not equally long.
        let bytes = |all: u64| {
            all.checked_div(of.opened).unwrap_or(0) * opened * (75 + 25 * place as u64) / 100
        };
        Totals {
            opened,
            active: of.active * percent / 100,
            sent: bytes(of.sent),
            received: bytes(of.received),
            ..Totals::default()
        }
    };
    let backends = BACKENDS.iter().enumerate();
    let backends = backends.map(|(place, (address, class, percent))| BackendSample {
        address: address.parse().expect("the addresses above are valid"),
        class: *class,
        totals: part(*percent, place),
    });
    let clients = CLIENTS.iter().enumerate();
    let clients = clients.map(|(place, (name, percent))| {
        let totals = if *percent == 0 { Totals::default() } else { part(*percent, place) };
        ((*name).to_owned(), totals)
    });
    Opened { key: key.clone(), backends: backends.collect(), clients: clients.collect() }
}

/// All service ports.
pub fn services() -> String {
    let mut state = State::new(Duration::from_secs(2));
    let mut totals = vec![Totals::default(); SERVICES.len()];
    for number in 0..25 {
        state.apply(sample(number, &mut totals));
    }
    drawn(&state, SIZE, "sockline top")
}

/// One that is opened.
pub fn service() -> String {
    let mut state = State::new(Duration::from_secs(2));
    let mut totals = vec![Totals::default(); SERVICES.len()];
    // Of the first sample, the opened one is the only row.
    let press = |state: &mut State, code| {
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
    };
    for number in 0..25 {
        let mut sample = sample(number, &mut totals);
        let mut services = sample.services.iter().flatten().map(|(key, _)| key);
        let key = services.nth(OPENED).expect("there are that many").clone();
        if number == 0 {
            let of_opened = |(of, _): &(ServiceKey, Totals)| *of == key;
            sample.services.iter_mut().for_each(|services| services.retain(of_opened));
            state.apply(sample);
            press(&mut state, KeyCode::Enter);
        } else {
            sample.opened = Some(opened(&key, number, totals[OPENED]));
            state.apply(sample);
        }
    }
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Down);
    drawn(&state, SIZE_OPENED, "sockline top with an opened service port")
}

fn drawn(state: &State, (columns, rows): (u16, u16), label: &str) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
    view::draw(state, &Palette::COLOURED, Purpose::Screen, &mut buffer);
    picture(&buffer, label)
}

fn picture(buffer: &Buffer, label: &str) -> String {
    let (width, height) = (
        f64::from(buffer.area.width) * WIDTH + 2.0 * MARGIN,
        f64::from(buffer.area.height) * HEIGHT + 2.0 * MARGIN,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{label}\">\n\
         <!-- Written by `cargo xtask docs` from invented numbers. Do not edit. -->\n\
         <style>\n\
         text {{ font: 14px 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre; }}\n\
         .paper {{ fill: #ffffff; }} .ink {{ fill: #1f2328; }} .bold {{ font-weight: bold; }}\n\
         .dim {{ opacity: 0.6; }} .red {{ fill: #cf222e; }} .magenta {{ fill: #8250df; }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         .paper {{ fill: #0d1117; }} .ink {{ fill: #e6edf3; }} .red {{ fill: #ff7b72; }} \
         .magenta {{ fill: #d2a8ff; }}\n\
         }}\n\
         </style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n"
    );
    for (row, cells) in buffer.content().chunks(buffer.area.width.into()).enumerate() {
        let top = MARGIN + row as f64 * HEIGHT;
        for (start, run) in runs(cells) {
            text(&mut svg, top, start, run);
        }
    }
    svg + "</svg>\n"
}

/// Neighbouring cells of one style, with the place of the first.
fn runs(cells: &[Cell]) -> impl Iterator<Item = (usize, &[Cell])> {
    let same = |a: &Cell, b: &Cell| a.style() == b.style();
    cells.chunk_by(same).scan(0, |next, run| {
        let start = *next;
        *next += run.len();
        Some((start, run))
    })
}

fn text(svg: &mut String, top: f64, start: usize, run: &[Cell]) {
    let style = run[0].style();
    let text: String = run.iter().map(Cell::symbol).collect();
    let is_reversed = style.add_modifier.contains(Modifier::REVERSED);
    let (left, width) = (MARGIN + start as f64 * WIDTH, run.len() as f64 * WIDTH);
    if is_reversed {
        let _ = writeln!(
            svg,
            "<rect class=\"ink\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT:.1}\"/>"
        );
    }
    let kept = text.trim_end();
    if kept.is_empty() {
        return;
    }
    let mut class = match style.fg {
        _ if is_reversed => "paper".to_owned(),
        Some(Color::Red) => "red".to_owned(),
        Some(Color::Magenta) => "magenta".to_owned(),
        _ => "ink".to_owned(),
    };
    if style.add_modifier.contains(Modifier::BOLD) {
        class += " bold";
    }
    if style.add_modifier.contains(Modifier::DIM) && !is_reversed {
        class += " dim";
    }
    let length = kept.chars().count() as f64 * WIDTH;
    let escaped = kept.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{length:.1}\" \
         xml:space=\"preserve\">{escaped}</text>",
        top + 13.5
    );
}
