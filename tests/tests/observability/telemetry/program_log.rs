//! `sockline log-level --programs`: the programs log what they decide for the hooks and the service that were asked for,
//! for as long as was asked for.

use std::{
    mem::offset_of,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use serde_json::{Value, json};
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{Agent, Service, Socket, UdpClient, sockline_binary};

use super::{CountedWeb, V4, V6, agent_state, at, family, forms, now};
use crate::common::{error_of, eventually, holds};

const OTHER: &str = "10.96.0.2:80";
const NONE: [&str; 2] = ["10.96.0.3:80", "[fd00:96::3]:80"];

/// `web`, `other` with the same endpoint, and `none` without one.
fn services() -> CountedWeb {
    let mut web = CountedWeb::new();
    let other = Service::new("other").ip("10.96.0.2").tcp(80).to(8080).endpoints([&web.web]);
    let none = Service::new("none").ip("10.96.0.3").ip("fd00:96::3").tcp(80).udp(80);
    web.cluster.apply([CountedWeb::service().endpoints([&web.web]), other, none]).unwrap();
    web
}

fn log_level(agent: &Agent, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(sockline_binary().unwrap());
    command.arg("log-level").arg("--admin-socket").arg(agent.admin_socket());
    command.args(args).output().unwrap()
}

#[track_caller]
fn begin(web: &CountedWeb, args: &[&str]) -> String {
    let output = log_level(web.cluster.agent(), args);
    assert!(output.status.success(), "{}", error_of(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What the programs have logged, without the process: `connect4: default/web:tcp-80/TCP …, socket 5`.
fn lines(web: &CountedWeb) -> Vec<String> {
    let log = web.cluster.agent().log();
    let of_programs = log.lines().filter_map(|line| {
        let (before, line) = line.split_once(" sockline::programs: ")?;
        assert!(before.ends_with("DEBUG"), "{line}");
        Some(line.to_owned())
    });
    let process = format!(", process {}", std::process::id());
    of_programs.map(|line| line.strip_suffix(&process).unwrap_or(&line).to_owned()).collect()
}

/// Waits for this many lines. That there are no more is proved only by a line that is logged later.
#[track_caller]
fn expect(web: &CountedWeb, count: usize) -> Vec<String> {
    let lines = eventually(&format!("{count} lines"), || {
        let lines = lines(web);
        if lines.len() < count { Err(format!("{lines:#?}")) } else { Ok(lines) }
    });
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// The endpoint as it is in a line, but for the id of the backend.
fn endpoint(web: &CountedWeb, to: SocketAddr) -> String {
    let is_v4 = to.ip().to_canonical().is_ipv4();
    let address = web.web.addresses().iter().find(|address| address.is_ipv4() == is_v4).unwrap();
    format!("{} (backend ", SocketAddr::new(*address, 8080))
}

fn canonical(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip().to_canonical(), to.port())
}

fn until(web: &CountedWeb) -> u64 {
    agent_state(web.cluster.node(), offset_of!(AgentState, debug_log_until))
}

fn program_log(web: &CountedWeb) -> Value {
    web.cluster.status().unwrap()["agent"]["programLog"].clone()
}

#[test]
fn nothing_is_logged_unless_asked_for_and_then_the_calls_of_that_hook_and_service() {
    let web = services();
    drop(web.connection(at(V4)));
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
    let printed = begin(&web, &["--programs", "connect", "--service", "default/web"]);
    let expected = "info\nprograms: connect4,connect6 of default/web, for another ";
    assert!(printed.starts_with(expected), "{printed}");
    assert!(until(&web) > now());
    let status = program_log(&web);
    assert_eq!(status["hooks"], json!(["connect4", "connect6"]));
    assert_eq!(status["service"], json!({"namespace": "default", "name": "web"}));
    for (number, to) in forms().into_iter().enumerate() {
        drop(web.connection(at(OTHER)));
        let socket = web.socket(to);
        web.client.run(|| socket.connect(to)).unwrap();
        let cookie = socket.cookie().unwrap();
        drop((socket, web.listener.accept().unwrap()));
        let lines = expect(&web, number + 1);
        let hook = if to.is_ipv4() { "connect4" } else { "connect6" };
        let (to, endpoint) = (canonical(to), endpoint(&web, to));
        let start = format!("{hook}: default/web:tcp-80/TCP {to} -> {endpoint}");
        let line = &lines[number];
        assert!(line.starts_with(&start), "{line} is not {start}");
        assert!(line.ends_with(&format!("), socket {cookie}")), "{line}");
    }
    assert_eq!(begin(&web, &["--programs", "off"]), "info\n");
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
    drop(web.connection(at(V4)));
    begin(&web, &["--programs", "connect4", "--service", "default/other"]);
    drop(web.connection(at(V4)));
    drop(web.connection(at(OTHER)));
    assert!(expect(&web, 4)[3].starts_with("connect4: default/other:tcp-80/TCP"));
}

#[test]
fn each_hook_of_a_flow_is_logged() {
    let web = services();
    let server = web.web.udp_server(8080).unwrap();
    begin(&web, &["--programs", "all", "--service", "default/web:udp-80", "--for", "1h"]);
    let mut count = 0;
    for to in [at(V4), at(V6)] {
        let client = web.client.run(|| UdpClient::unconnected(to.ip()).unwrap());
        client.ask_to(to, "one").unwrap();
        client.ask_to(to, "two").unwrap();
        drop(client);
        let connected = web.client.run(|| UdpClient::connected(to).unwrap());
        connected.socket().peer_addr().unwrap();
        drop(connected);
        // TCP is another port.
        drop(web.connection(to));
        let family = if to.is_ipv4() { 4 } else { 6 };
        let service = "default/web:udp-80/UDP";
        let endpoint = endpoint(&web, to);
        let shown = format!(": {service} {endpoint}");
        let sent = format!("sendmsg{family}: {service} {to} -> {endpoint}");
        let expected = [
            (sent.clone(), ""),
            (format!("recvmsg{family}{shown}"), "is shown as"),
            (sent, "which the socket has"),
            (format!("recvmsg{family}{shown}"), "is shown as"),
            (format!("sock_release{shown}"), "record freed: closed by the client"),
            (format!("connect{family}: {service} {to} -> {endpoint}"), ""),
            (format!("getpeername{family}{shown}"), "is shown as"),
            (format!("sock_release{shown}"), "record freed: closed by the client"),
        ];
        let lines = expect(&web, count + expected.len());
        for (line, (start, further)) in lines[count..].iter().zip(&expected) {
            assert!(line.starts_with(start) && line.contains(further), "{line}: {expected:#?}");
        }
        count += expected.len();
    }
    drop(server);
}

#[test]
fn what_is_refused_or_bypassed_is_logged_with_the_reason() {
    let mut web = services();
    begin(&web, &["--programs", "connect4,connect6,sock_release"]);
    for to in NONE.map(at) {
        web.client.run(|| TcpStream::connect(to)).unwrap_err();
        web.client.run(|| Socket::udp(family(to)).unwrap().connect(to)).unwrap_err();
    }
    let lines = expect(&web, 4);
    for (line, (hook, to, port)) in lines.iter().zip([
        ("connect4", NONE[0], "tcp-80/TCP"),
        ("connect4", NONE[0], "udp-80/UDP"),
        ("connect6", NONE[1], "tcp-80/TCP"),
        ("connect6", NONE[1], "udp-80/UDP"),
    ]) {
        let start = format!("{hook}: default/none:{port} {to} refused: no endpoints, socket ");
        assert!(line.starts_with(&start), "{line} is not {start}");
    }
    let off = Service::new("off").ip("10.96.0.4").udp(80).to(8080);
    let off = off.annotate("sockline.dev/redirect", "disabled").endpoints([&web.web]);
    web.cluster.apply([off]).unwrap();
    let off = at("10.96.0.4:80");
    web.client.run(|| Socket::udp(family(off)).unwrap().connect(off)).unwrap();
    let line = &expect(&web, 5)[4];
    let start = format!("connect4: default/off:udp-80/UDP {off} bypassed: redirect disabled");
    assert!(line.starts_with(&start), "{line} is not {start}");
}

#[test]
fn a_flood_is_cut_and_every_line_that_is_missing_is_counted() {
    const CALLS: usize = 2000;
    let web = services();
    begin(&web, &["--programs", "connect", "--service", "default/none"]);
    web.client.run(|| {
        for _ in 0..CALLS {
            TcpStream::connect(at(NONE[0])).unwrap_err();
        }
    });
    eventually("each call to be logged or counted", || {
        let skipped = program_log(&web)["linesSkipped"].as_u64().unwrap();
        let logged = lines(&web).len();
        holds(
            logged + skipped as usize == CALLS && skipped > 0,
            format!("{logged} lines, {skipped} skipped"),
        )
    });
}

#[test]
fn it_ends_when_its_time_is_over() {
    let web = services();
    begin(&web, &["--programs", "connect", "--for", "1s"]);
    eventually("the log to end", || {
        let log = web.cluster.agent().log();
        let is_over = log.contains("no longer log what they decide: its time is over");
        holds(is_over, log)
    });
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
    let before = lines(&web);
    drop(web.connection(at(V4)));
    begin(&web, &["--programs", "connect", "--service", "default/other"]);
    drop(web.connection(at(OTHER)));
    expect(&web, before.len() + 1);
}

#[test]
fn an_agent_that_is_killed_leaves_nothing_switched_on() {
    let mut web = services();
    begin(&web, &["--programs", "all", "--for", "24h"]);
    let pid = nix::unistd::Pid::from_raw(web.cluster.agent().pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(until(&web) > 0, "there was no time to switch off");
    eventually("the deadline to pass", || {
        let (now, until) = (now(), until(&web));
        holds(until < now, format!("{until} is not before {now}"))
    });
    drop(web.connection(at(V4)));
    web.cluster.restart(|_| {}).unwrap();
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
    begin(&web, &["--programs", "connect", "--service", "default/other"]);
    drop(web.connection(at(OTHER)));
    expect(&web, 1);
}

/// Lines have no time of their own, and the next agent would give them its time.
#[test]
fn lines_that_a_killed_agent_has_not_read_are_dropped_and_counted_by_the_next_one() {
    const CALLS: usize = 4;
    let mut web = services();
    begin(&web, &["--programs", "connect", "--for", "24h"]);
    let pid = nix::unistd::Pid::from_raw(web.cluster.agent().pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    for _ in 0..CALLS {
        drop(web.connection(at(V4)));
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // It may have read some before it stopped.
    let left = CALLS - lines(&web).len();
    assert!(left > 0 && until(&web) > now(), "programs log still");
    web.cluster.restart(|_| {}).unwrap();
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
    begin(&web, &["--programs", "connect", "--service", "default/other"]);
    drop(web.connection(at(OTHER)));
    assert!(expect(&web, 1)[0].contains("default/other"));
    let log = web.cluster.agent().log();
    let counted = "dropped what the programs logged of their decisions for an earlier agent";
    let counted = log.lines().filter(|line| line.contains(counted)).collect::<Vec<_>>();
    assert_eq!(counted.len(), 1, "{log}");
    assert!(counted[0].contains(&format!("lines={left}")), "{left}: {counted:?}");
}

#[test]
fn a_service_that_is_made_again_is_still_logged() {
    let mut web = services();
    begin(&web, &["--programs", "connect", "--service", "default/other"]);
    drop(web.connection(at(OTHER)));
    expect(&web, 1);
    web.cluster.remove("other").unwrap();
    let other = Service::new("other").ip("10.96.0.2").tcp(80).to(8080).endpoints([&web.web]);
    web.cluster.apply([other]).unwrap();
    eventually("its calls to be logged", || {
        drop(web.connection(at(OTHER)));
        // Calls of `web` are not, also while the other one is in no map.
        drop(web.connection(at(V4)));
        let lines = lines(&web);
        assert!(lines.iter().all(|line| line.contains("default/other:")), "{lines:#?}");
        holds(lines.len() > 1, format!("{lines:#?}"))
    });
}

#[test]
fn what_is_not_there_is_an_error_that_says_what_is() {
    let web = services();
    let error = |args: &[&str]| {
        let output = log_level(web.cluster.agent(), args);
        assert!(!output.status.success(), "{args:?}");
        error_of(&output)
    };
    let cases: [(&[&str], &str); 8] = [
        (&["--programs", "connect5"], "\"connect5\" is not a hook: there are connect4, connect6"),
        (&["--programs", "off,connect4"], "\"off\" is not a hook"),
        (
            &["--programs", "all", "--service", "default/wen"],
            "no service default/wen is in the maps: of default there are none, other, web",
        ),
        (
            &["--programs", "all", "--service", "shop/web"],
            "no service shop/web is in the maps, and none of the namespace shop",
        ),
        (
            &["--programs", "all", "--service", "default/web:http"],
            "default/web has no port http: there are tcp-80, udp-80",
        ),
        (&["--programs", "all", "--for", "25h"], "seconds: 90000 is not between 1 and 86400"),
        (&["--service", "default/web"], "--programs"),
        (&["debug", "--programs", "all"], "cannot be used with"),
    ];
    for (args, expected) in cases {
        let error = error(args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert_eq!((until(&web), program_log(&web)), (0, Value::Null));
}
