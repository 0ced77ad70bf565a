//! `sockline top`: one frame under traffic, and the screen in a pseudo-terminal.

mod session;

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use sockline_testbed::{objects, sockline_binary};

use self::session::Session;
use crate::common::{CART, WebNode, error_of, eventually, holds, ip};

const SHIP: &str = "10.96.0.2";

/// The cells of the row of a service port.
fn row(frame: &str, name: &str) -> Vec<String> {
    let line = frame.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{frame}"));
    line.split_whitespace().skip(1).map(ToOwned::to_owned).collect()
}

fn number(cell: &str) -> f64 {
    let (digits, unit) = match cell.strip_suffix('k') {
        Some(digits) => (digits, 1e3),
        None => (cell, 1.0),
    };
    digits.parse::<f64>().unwrap_or_else(|error| panic!("{cell}: {error}")) * unit
}

#[test]
fn one_frame_has_the_numbers_of_the_traffic() {
    let (node, _agent) = WebNode::serving(2, &[]);
    // Its only endpoint has no server.
    let _silent = node.pod("silent", &[ip("10.244.1.77")]).unwrap();
    let slice = objects::slice("ship", &[ip("10.244.1.77")]);
    node.put("ship.yaml", &[objects::web_service("ship", SHIP), slice]);
    node.put("none.yaml", &[objects::web_service("none", "10.96.0.3")]);
    eventually("the services to be there", || {
        let services = node.services();
        holds(services.len() == 3, format!("{services:?}"))
    });
    let cart = SocketAddr::new(ip(CART), 80);
    let open: Vec<_> =
        (0..3).map(|_| node.client.run(|| std::net::TcpStream::connect(cart)).unwrap()).collect();
    let mut top = Command::new(sockline_binary().unwrap());
    top.args(["top", "--once", "--interval", "1s"]).arg("--bpf-root").arg(node.bpffs());
    top.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut top = node.outside().child(&mut top).unwrap();
    let mut made = 0.0;
    while top.try_wait().unwrap().is_none() {
        made += 1.0;
        node.ask(CART).unwrap();
        node.ask(SHIP).unwrap_err();
        node.ask("10.96.0.3").unwrap_err();
    }
    let output = top.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", error_of(&output));
    let frame = String::from_utf8(output.stdout).unwrap();
    let [cart, ship, none, dns] = [
        row(&frame, "shop/cart:web/TCP"),
        row(&frame, "shop/ship:web/TCP"),
        row(&frame, "shop/none:web/TCP"),
        row(&frame, "shop/cart:dns/UDP"),
    ];
    // All of them were made in more than the interval.
    let rate = number(&cart[0]);
    // From 1,000 on, two that are rounded to hundreds may be that much further apart.
    let rounding = |rate: f64| if rate < 1000.0 { 0.0 } else { 100.0 };
    assert!(rate > 0.0 && rate <= made + rounding(rate), "{made} were made\n{frame}");
    let held = number(&cart[1]);
    // A child process that another test is starting may hold the latest ones a moment longer.
    assert!((3.0..=6.0).contains(&held), "3 are open, and some may be on their way\n{frame}");
    assert_eq!(cart[2], "0", "{frame}");
    assert!(cart[3].starts_with('<') && cart[4].starts_with('<'), "round-trip times\n{frame}");
    // Each answer is the pod's name and a line end.
    let received = number(&cart[6].replace('K', "k"));
    let tolerance = 1.0 + 12.0 / rate;
    assert!((received / rate - 6.0).abs() < tolerance, "6 bytes each\n{frame}");
    // Of one moment: between them at most one connection began.
    let (opened, failed) = (number(&ship[0]), number(&ship[2]));
    assert!((opened - failed).abs() <= 1.5 + rounding(opened), "all of them fail\n{frame}");
    assert!(number(&ship[2]) > 0.0, "{frame}");
    assert_eq!(none[0], "0", "a refused call opens no connection\n{frame}");
    assert!(number(&none[2]) > 0.0, "it is a failure\n{frame}");
    assert_eq!(dns[..3], ["0", "0", "0"], "{frame}");
    assert!(frame.starts_with("node-a  4 service ports, every 1s\n"), "{frame}");
    drop(open);
}

#[test]
fn without_telemetry_and_without_an_agent_it_says_so() {
    let (node, mut agent) = WebNode::serving(1, &["--telemetry", "off"]);
    let frame = |node: &WebNode| {
        let output = node.look(&["top", "--once", "--interval", "100ms"]);
        assert!(output.status.success(), "{}", error_of(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let off = frame(&node);
    assert!(off.contains("telemetry is off (--telemetry): no failures"), "{off}");
    assert_eq!(node.status()["agent"]["telemetry"], json!("off"));
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("Telemetry    off: "), "{table}");
    agent.stop().unwrap();
    let away = frame(&node);
    assert!(away.contains("no agent runs") && away.contains("shop/cart:web/TCP"), "{away}");
}

#[test]
fn wrong_intervals_and_a_pipe_are_errors() {
    let (node, _agent) = WebNode::serving(1, &[]);
    let pipe = node.look(&["top"]);
    assert_eq!(pipe.status.code(), Some(1));
    let said = "standard output is not a terminal; --once prints one frame as text";
    assert!(error_of(&pipe).contains(said), "{}", error_of(&pipe));
    let short = node.look(&["top", "--interval", "1ms"]);
    assert_eq!(short.status.code(), Some(2));
    assert!(error_of(&short).contains("it must be at least 100ms"), "{}", error_of(&short));
}

#[test]
fn keys_open_backends_help_and_a_filter_and_q_restores_the_terminal() {
    let (node, _agent) = WebNode::serving(2, &[]);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let mut session = Session::start(&node);
    session.wait_for(0, &["shop/cart:web/TCP", "shop/ship:dns/UDP", "4serviceports", "FAIL/S"]);
    session.press("?", &["anykeygoesback", "Ctrl-L"]);
    session.press("x", &["shop/cart:web/TCP", "qquit?help"]);
    session.press("/ship:w", &["filter:"]);
    session.press("\r", &["Enteropen"]);
    // The screen is drawn again.
    session.press("\u{c}", &["shop/ship:web/TCP", "1of4serviceports", "filter:ship:w"]);
    session.press("\r", &["backendsandclientsofshop/ship:web/TCP", "10.244.1.1:8080"]);
    session.press(" ", &["paused"]);
    session.press("q", &["status0"]);
    session.assert_restored(0);
}

#[test]
fn a_signal_ends_it_and_restores_the_terminal() {
    let (node, _agent) = WebNode::serving(1, &[]);
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let session = Session::start(&node);
        session.wait_for(0, &["shop/cart:web/TCP"]);
        let pid = eventually("the command to begin", || session.pid().ok_or("no process"));
        kill(pid, signal).unwrap();
        session.assert_restored(status);
    }
    let mut session = Session::start(&node);
    session.wait_for(0, &["shop/cart:web/TCP"]);
    session.press("\u{3}", &["status0"]);
    session.assert_restored(0);
}

/// As on a terminal that is stopped, or whose connection hangs.
#[test]
fn a_signal_ends_it_also_while_the_terminal_takes_no_output() {
    let (node, _agent) = WebNode::serving(2, &[]);
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130)] {
        let mut session = Session::start(&node);
        session.wait_for(0, &["shop/cart:web/TCP"]);
        let pid = eventually("the command to begin", || session.pid().ok_or("no process"));
        let gate = Arc::clone(&session.gate);
        let closed = gate.lock().unwrap();
        session.fill(&node, pid);
        kill(pid, signal).unwrap();
        eventually("the command to end", || {
            // Its shell reaps it.
            holds(kill(pid, None).is_err(), "it runs")
        });
        drop(closed);
        // The terminal took nothing that would restore its screen.
        session.assert_ended(status);
    }
}

/// The maps disappear, and come back with another agent.
#[test]
fn it_goes_on_when_the_maps_are_removed_and_made_again() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let mut session = Session::start(&node);
    session.wait_for(0, &["shop/cart:web/TCP"]);
    agent.stop().unwrap();
    session.press("\u{c}", &["noagentruns"]);
    agent.cli(&["cleanup"]).unwrap();
    session.press("\u{c}", &["cannotreadthecounters:", "shop/cart:web/TCP"]);
    let start = session.drawn_bytes();
    let _agent = node.start_agent();
    eventually("the error to be gone", || {
        session.send("\x0c");
        let drawn = session.drawn_since(start);
        let last = drawn.rsplit("node-a").next().unwrap_or_default().to_owned();
        holds(
            last.contains("conn/s")
                && !last.contains("cannotread")
                && !last.contains("noagentruns"),
            last,
        )
    });
    session.press("q", &["status0"]);
    session.assert_restored(0);
}
