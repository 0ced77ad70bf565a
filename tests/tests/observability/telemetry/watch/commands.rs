//! The command: its table, how it ends, and its errors.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;
use sockline_testbed::sockline_binary;

use super::{
    super::{CountedWeb, V4, at, transfer},
    Watch, command, lost, watchers,
};
use crate::common::{Lines, end_of, error_of, eventually, holds};

/// A watch with a table; its lines are still to be read.
fn with_table(web: &CountedWeb, args: &[&str]) -> Child {
    let child = command(web.cluster.agent(), args).spawn().unwrap();
    eventually("the agent to know the watcher", || {
        let count = watchers(web.cluster.agent());
        holds(count == 1, count)
    });
    child
}

fn nobody_watches(web: &CountedWeb) {
    eventually("nobody to watch", || {
        let count = watchers(web.cluster.agent());
        holds(count == 0, count)
    });
}

#[test]
fn the_table_has_a_line_for_each_event_under_its_columns() {
    let web = CountedWeb::new();
    let mut child = with_table(&web, &[]);
    let lines = Lines::of(child.stdout.take().unwrap());
    let head = lines.next();
    let (mut client, mut server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 2048);
    drop(client);
    let column = |line: &str, name: &str| {
        let start = head.find(name).unwrap();
        line[start..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (opened, closed) = (lines.next(), lines.next());
    for (line, event, reason, sent) in
        [(&opened, "opened", "-", "-"), (&closed, "closed", "client", "2.0K")]
    {
        let seen =
            ["EVENT", "REASON", "PROTOCOL", "SERVICE", "SENT"].map(|name| column(line, name));
        assert_eq!(seen, [event, reason, "TCP", "default/web:tcp-80", sent], "{head}\n{line}");
        assert!(column(line, "ENDPOINT").ends_with(":8080"), "{line}");
    }
    // The socket may be closed last by a child process that another test is starting.
    assert!(column(&opened, "CLIENT").contains(&format!("[{}]", std::process::id())), "{opened}");
    child.kill().unwrap();
    end_of(&mut child);
}

#[test]
fn it_ends_well_when_it_is_interrupted_or_nobody_reads_any_more() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    drop(web.connection(at(V4)));
    watch.expect(2);
    let (status, said, events) = watch.interrupt();
    assert!(status.success(), "{status}: {said}");
    assert_eq!((said.as_str(), events.len()), ("", 2), "nothing was lost");
    nobody_watches(&web);
    let mut child = with_table(&web, &[]);
    drop(child.stdout.take());
    // It notices with the next event.
    let status = eventually("it to end", || {
        drop(web.connection(at(V4)));
        child.try_wait().unwrap().ok_or("it runs")
    });
    assert!(status.success());
    nobody_watches(&web);
}

#[test]
fn an_agent_that_ends_takes_its_watchers_with_it_at_once() {
    let mut web = CountedWeb::new();
    let mut watch = Watch::start(web.cluster.agent(), &[]);
    web.cluster.restart(|_| {}).unwrap();
    assert_eq!(end_of(&mut watch.child).code(), Some(1));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut watch.child.stderr.take().unwrap(), &mut said).unwrap();
    // The rest depends on whether the connection took the last document in time.
    assert!(said.starts_with("error: the agent has ended"), "{said}");
}

/// Answers `POST /events` with a chunk that says how many events were lost, and with what is in `rest`.
fn answer(listener: &UnixListener, rest: &str) {
    let mut stream = listener.accept().unwrap().0;
    let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
    while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    let losses = "{\"apiVersion\": \"sockline.dev/v1\", \"kind\": \"EventLosses\", \"readsSockets\": true, \
                  \"ringFull\": 3, \"sampled\": 0, \"slowReader\": 0}\n";
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{losses}\r\n{rest}",
        losses.len()
    )
    .unwrap();
}

#[test]
fn a_watch_that_the_agent_has_ended_says_so() {
    let said_after = |rest: &str| {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = Command::new(sockline_binary().unwrap());
        command.args(["watch", "--admin-socket", socket.to_str().unwrap()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        answer(&listener, rest);
        error_of(&child.wait_with_output().unwrap())
    };
    let lost = "3 events of all services were lost: the agent did not read them in time";
    let end = |reason: &str| {
        let end = format!(
            "{{\"apiVersion\": \"sockline.dev/v1\", \"kind\": \"WatchEnd\", \"reason\": \"{reason}\"}}\n"
        );
        said_after(&format!("{:x}\r\n{end}\r\n0\r\n\r\n", end.len()))
    };
    let not_read = "error: the agent has ended this watch, because nothing was read for 60s";
    assert_eq!(end("not-read"), format!("{lost}\n{not_read}\n"));
    let ended = "error: the agent has ended";
    assert_eq!(end("agent-stopping"), format!("{lost}\n{ended}\n"));
    let other = "error: the agent has ended this watch";
    assert_eq!(end("of-a-later-agent"), format!("{lost}\n{other}\n"));
    // An agent of an earlier build sends no last document.
    assert_eq!(said_after("0\r\n\r\n"), format!("{lost}\n{ended}\n"));
    let cut_off =
        "error: the agent has ended, or has ended this watch because nothing was read for 60s: ";
    let said = said_after("");
    assert!(said.starts_with(&format!("{lost}\n{cut_off}")), "{said}");
}

#[test]
fn each_signal_that_ends_it_lets_it_say_what_was_lost() {
    let web = CountedWeb::with(&["--telemetry=off"]);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let watch = Watch::start(web.cluster.agent(), &[]);
        drop(web.connection(at(V4)));
        watch.expect(2);
        let (status, said, _) = watch.end(signal);
        assert!(status.success(), "{signal}: {status}: {said}");
        let expected = "the programs do not read sockets";
        assert!(said.starts_with(expected), "{said}");
        nobody_watches(&web);
    }
}

#[test]
fn a_signal_ends_it_also_while_nobody_reads_what_it_prints() {
    let web = CountedWeb::new();
    let mut watch = Watch::unread(web.cluster.agent(), &[]);
    let waits_for_pipe = || {
        // The threads that wait in a write to a pipe.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", watch.child.id())).unwrap();
        tasks.flatten().any(|task| {
            let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            call.starts_with(&format!("{} 0x1 ", libc::SYS_write))
        })
    };
    eventually("the pipe to be full", || {
        for _ in 0..50 {
            drop(web.connection(at(V4)));
        }
        holds(waits_for_pipe(), "no thread waits for the pipe")
    });
    watch.signal(Signal::SIGTERM);
    let status = end_of(&mut watch.child);
    assert!(status.success(), "{status}");
}

#[test]
fn a_closed_standard_error_does_not_end_it() {
    let web = CountedWeb::with(&["--telemetry=off"]);
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    // It has something to say at once: that ends are not known.
    let mut child = command(web.cluster.agent(), &["-o", "json"]).stderr(closed).spawn().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    eventually("the agent to know the watcher", || {
        let count = watchers(web.cluster.agent());
        holds(count == 1, count)
    });
    drop(web.connection(at(V4)));
    assert!(lines.next().contains("opened"));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let status = end_of(&mut child);
    assert!(status.success(), "{status}");
}

/// `SIGTERM`, and the next agent, while a client has not read for so long that its events are lost.
#[test]
fn a_client_that_does_not_read_does_not_keep_the_agent_from_ending() {
    let mut web = CountedWeb::new();
    let mut stuck = UnixStream::connect(web.cluster.agent().admin_socket()).unwrap();
    let filter = "{\"apiVersion\": \"sockline.dev/v1\", \"kind\": \"EventFilter\"}";
    write!(
        stuck,
        "POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{filter}",
        filter.len()
    )
    .unwrap();
    eventually("its queue to be full", || {
        for _ in 0..50 {
            drop(web.connection(at(V4)));
        }
        let lost = lost(web.cluster.agent(), "slow-reader");
        holds(lost > 0, format!("{lost} lost, {} watch", watchers(web.cluster.agent())))
    });
    web.cluster.restart(|_| {}).unwrap();
    drop(stuck);
}

#[test]
fn there_is_a_limit_of_watchers_and_other_connections_do_not_end_them() {
    let web = CountedWeb::new();
    let agent = web.cluster.agent();
    let all: Vec<Watch> = (0..8).map(|_| Watch::start(agent, &[])).collect();
    let refused = command(agent, &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(error_of(&refused), "error: too many watchers: at most 8 at a time\n");
    // More than all connections that the agent has at once.
    let held: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(agent.admin_socket()).unwrap()).collect();
    let mut level = Command::new(sockline_binary().unwrap());
    level.args(["log-level", "--admin-socket", agent.admin_socket().to_str().unwrap()]);
    let level = level.output().unwrap();
    assert!(level.status.success(), "{level:?}");
    drop(web.connection(at(V4)));
    for watch in &all {
        watch.expect(2);
    }
    drop(held);
}

#[test]
fn errors_say_what_is_missing() {
    let sockline = |args: &[&str]| {
        let mut command = Command::new(sockline_binary().unwrap());
        command.arg("watch").args(args).stdin(Stdio::null()).output().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let at_socket = ["--admin-socket", socket.to_str().unwrap()];
    let none = sockline(&at_socket);
    assert_eq!(none.status.code(), Some(1));
    let expected = format!("error: no agent answers on {}", socket.display());
    assert!(error_of(&none).starts_with(&expected), "{}", error_of(&none));
    // An agent of a build without events.
    let listener = UnixListener::bind(&socket).unwrap();
    let older = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
        while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let said = error_of(&sockline(&at_socket));
    older.join().unwrap();
    let expected =
        "error: the agent answers 404 Not Found to /events; it may be of another version\n";
    assert_eq!(said, expected);
    for name in ["cart", "a/b/c"] {
        let wrong = sockline(&["--service", name]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(error_of(&wrong).contains("it must be NAMESPACE/NAME"), "{}", error_of(&wrong));
    }
}

#[test]
fn without_telemetry_connections_are_shown_and_their_ends_are_unknown() {
    let web = CountedWeb::with(&["--telemetry=off"]);
    let watch = Watch::start(web.cluster.agent(), &[]);
    drop(web.connection(at(V4)));
    let events = watch.expect(2);
    assert_eq!((&events[1]["event"], &events[1]["reason"]), (&"closed".into(), &"unknown".into()));
    let (_, said, _) = watch.interrupt();
    assert!(said.starts_with("the programs do not read sockets (--telemetry=off"), "{said}");
}

#[test]
fn a_watcher_that_is_killed_is_noticed() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    watch.signal(Signal::SIGKILL);
    eventually("nobody to watch", || {
        let count = watchers(web.cluster.agent());
        holds(count == 0, count)
    });
}
