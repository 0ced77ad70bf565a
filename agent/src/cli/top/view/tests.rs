use std::time::Duration;

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::{Color, Modifier},
};

use super::*;
use crate::{
    cli::top::{
        plain,
        sample::{BackendSample, Node, Opened, Sample, Totals},
    },
    dataplane::ServiceKey,
    model::{
        object::{ObjectName, Protocol},
        plan::TrafficClass,
    },
};

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 10)];

fn key(number: usize) -> ServiceKey {
    ServiceKey {
        service: ObjectName::new("boutique", format!("recommendationservice-{number}")),
        port_name: "grpc".into(),
        protocol: Protocol::Tcp,
    }
}

fn sample(seconds: u64, services: usize) -> Sample {
    let totals = |number: usize| {
        let growth = seconds * (services - number) as u64;
        let mut totals = Totals {
            opened: growth,
            active: number as u64,
            failed: if number == 1 { growth } else { 0 },
            sent: growth * 1000,
            received: growth * 1_000_000,
            ..Totals::default()
        };
        totals.round_trips[4] = growth;
        totals
    };
    Sample {
        at: Duration::from_secs(seconds),
        node: Node { name: "node-a".to_owned(), agent_runs: true, detail: Detail::All },
        services: Some((0..services).map(|number| (key(number), totals(number))).collect()),
        opened: None,
    }
}

fn state(services: usize) -> State {
    let mut state = State::new(Duration::from_secs(2));
    state.apply(sample(0, services));
    state.apply(sample(2, services));
    state
}

/// The first service port is opened: three backends in three zones, and two clients.
fn opened() -> State {
    let mut state = state(3);
    press(&mut state, KeyCode::Enter);
    let totals = |opened| Totals { opened, sent: 1000 * opened, ..Totals::default() };
    for seconds in [2, 4] {
        let backends = (1..).zip(TrafficClass::ALL).take(3).map(|(place, class)| BackendSample {
            address: format!("10.244.{place}.17:8080").parse().unwrap(),
            class,
            totals: totals(seconds * place),
        });
        let clients = ["boutique/frontend (Deployment)", "kubelet.service (SystemdService)"];
        let opened = Opened {
            key: key(0),
            backends: backends.collect(),
            clients: clients.map(|name| (name.to_owned(), totals(3 * seconds))).to_vec(),
        };
        let services = sample(seconds, 3);
        state.apply(Sample { opened: Some(opened), ..services });
    }
    state
}

fn press(state: &mut State, code: KeyCode) {
    state.press(KeyEvent::new(code, KeyModifiers::NONE));
}

fn drawn(state: &State, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let draw = |frame: &mut ratatui::Frame<'_>| {
        view_of(state, frame.buffer_mut());
    };
    terminal.draw(draw).unwrap();
    terminal.backend().buffer().clone()
}

fn view_of(state: &State, buffer: &mut Buffer) {
    draw(state, &Palette::COLOURED, Purpose::Screen, buffer);
}

fn text(state: &State, size: (u16, u16)) -> String {
    plain::text(&drawn(state, size))
}

#[test]
fn the_important_columns_stay_at_every_size() {
    let state = state(50);
    for (size, columns) in SIZES.into_iter().zip([
        "SERVICE CONN/S▼ ACTIVE FAIL/S P50 P99 SENT/S RECV/S",
        "SERVICE CONN/S▼ ACTIVE FAIL/S P50 P99 SENT/S RECV/S TREND",
        "SERVICE CONN/S▼ ACTIVE FAIL/S",
    ]) {
        let text = text(&state, size);
        let titles = text.lines().nth(2).unwrap();
        assert_eq!(titles.split_whitespace().collect::<Vec<_>>().join(" "), columns, "{size:?}");
        assert!(text.lines().nth(3).unwrap().contains("-0:grpc/TCP"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= size.0.into()), "{text}");
        assert!(text.trim_end().lines().last().unwrap().starts_with("q quit"), "{text}");
    }
}

#[test]
fn an_opened_service_port_shows_how_far_its_traffic_goes_at_every_size() {
    let state = opened();
    for (size, columns) in SIZES.into_iter().zip([
        "BACKEND CONN/S▼ ACTIVE FAIL/S SENT/S RECV/S",
        "BACKEND TRAFFIC CONN/S▼ ACTIVE FAIL/S SENT/S RECV/S TREND",
        "BACKEND CONN/S▼ ACTIVE FAIL/S",
    ]) {
        let text = text(&state, size);
        let lines: Vec<&str> = text.lines().collect();
        let shares = "same-node 17 %, same-zone 33 %, other-zone 50 %";
        assert!(format!("connections {shares}").starts_with(lines[3]), "{text}");
        assert!(format!("bytes       {shares}").starts_with(lines[4]), "{text}");
        assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>().join(" "), columns, "{size:?}");
        assert!(lines[6].starts_with("10.244.3.17:8080 "), "{text}");
        assert_eq!(lines[6].contains(" other-zone "), columns.contains("TRAFFIC"), "{text}");
        if size.0 >= 80 {
            assert!(lines[9].starts_with("from boutique/frontend (Deployment) "), "{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= size.0.into()), "{text}");
    }
}

#[test]
fn a_row_has_its_numbers() {
    let text = text(&state(3), (80, 24));
    let row = text.lines().find(|line| line.contains("-1:grpc")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().skip(1).collect();
    assert_eq!(cells, ["2.0", "1", "2.0", "<128µs", "<128µs", "2.0K", "1.9M"]);
    assert_eq!(
        text.lines().nth(1).unwrap(),
        "6.0 conn/s, 3 active, 2.0 failed/s, sent 5.9K/s, received 5.7M/s"
    );
}

/// Every state at every size, and at those that no terminal has.
#[test]
fn nothing_panics_at_any_size() {
    let mut states = vec![State::new(Duration::from_secs(2)), state(0), state(1), state(200)];
    for press_first in [KeyCode::Char('?'), KeyCode::Char('/'), KeyCode::Enter, KeyCode::End] {
        let mut state = state(200);
        press(&mut state, press_first);
        states.push(state);
    }
    states.push(opened());
    let mut away = state(1);
    away.fail("the maps are gone".to_owned());
    let node = away.node.as_mut().unwrap();
    (node.agent_runs, node.detail) = (false, Detail::Off);
    states.push(away);
    let odd = [(1, 1), (2, 2), (10, 3), (300, 100), (80, 1)];
    for state in &states {
        for size in SIZES.into_iter().chain(odd) {
            drawn(state, size);
        }
        view_of(state, &mut Buffer::empty(Rect::ZERO));
        let mut all = Buffer::empty(Rect::new(0, 0, 120, height(state)));
        draw(state, &Palette::PLAIN, Purpose::Text, &mut all);
    }
}

#[test]
fn the_selected_row_is_in_view_and_reversed() {
    let mut state = state(200);
    for (key, shown) in [(KeyCode::End, "-199:grpc"), (KeyCode::Home, "-0:grpc")] {
        press(&mut state, key);
        for size in SIZES {
            let buffer = drawn(&state, size);
            let rows: Vec<&[_]> = buffer.content().chunks(size.0.into()).collect();
            let selected: Vec<_> =
                rows.iter().filter(|row| row[0].modifier.contains(Modifier::REVERSED)).collect();
            assert_eq!(selected.len(), 1, "{size:?}");
            let text: String = selected[0].iter().map(ratatui::buffer::Cell::symbol).collect();
            assert!(text.contains(shown), "{size:?}: {text}");
        }
    }
}

/// Whatever colours the terminal has: no background, and only its own foregrounds.
#[test]
fn colours_are_the_terminals_own() {
    let buffer = drawn(&state(50), (120, 40));
    assert!(buffer.content().iter().all(|cell| cell.bg == Color::Reset));
    let is_named = |color| matches!(color, Color::Reset | Color::Red | Color::Magenta);
    assert!(buffer.content().iter().all(|cell| is_named(cell.fg)));
    assert!(buffer.content().iter().any(|cell| cell.fg == Color::Red), "a failure is marked");
    let mut plain = Buffer::empty(Rect::new(0, 0, 120, 40));
    draw(&state(50), &Palette::PLAIN, Purpose::Screen, &mut plain);
    assert!(plain.content().iter().all(|cell| cell.fg == Color::Reset), "with NO_COLOR");
}

#[test]
fn what_is_not_counted_and_what_is_wrong_is_said() {
    let mut state = state(1);
    state.fail("x\u{1b}[2J".to_owned());
    let node = state.node.as_mut().unwrap();
    (node.agent_runs, node.detail) = (false, Detail::Off);
    press(&mut state, KeyCode::Char(' '));
    let shown = text(&state, (80, 24));
    for said in [
        "no agent runs  paused",
        "telemetry is off (--telemetry)",
        r"cannot read the counters: x\u{1b}[2J",
    ] {
        assert!(shown.contains(said), "{said:?} is not in\n{shown}");
    }
    state.node.as_mut().unwrap().detail = Detail::NotOnThisKernel;
    assert!(text(&state, (80, 24)).contains("this kernel does not let programs read sockets"));
}

#[test]
fn the_help_fits_an_ssh_session() {
    let mut state = state(1);
    press(&mut state, KeyCode::Char('?'));
    let shown = text(&state, (80, 24));
    assert!(shown.contains("Round-trip times are counted when a connection ends."), "{shown}");
    assert!(shown.trim_end().ends_with("any key goes back  q quit"), "{shown}");
}
