//! Programs write events only while a client watches.

use std::mem::offset_of;

use nix::sys::signal::Signal;
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::Node;

use super::{
    super::{CountedWeb, V4, agent_state, at, now},
    Watch, written,
};
use crate::common::{eventually, holds};

/// Until when programs write events, in nanoseconds of `CLOCK_MONOTONIC`; 0 is off.
fn until(node: &Node) -> u64 {
    agent_state(node, offset_of!(AgentState, events_until))
}

fn connect_and_close(web: &CountedWeb) {
    for _ in 0..10 {
        drop(web.connection(at(V4)));
    }
}

/// Makes ten connections, and waits until all that were made have ended: each of the sockets may exist a moment longer
/// in a child process that another test is starting.
fn connections(web: &CountedWeb) {
    let before = web.seen().opened;
    connect_and_close(web);
    eventually("the connections to end", || {
        let seen = web.seen();
        holds((seen.opened, seen.active) == (before + 10, 0), format!("{seen:?}"))
    });
}

#[test]
fn nothing_is_written_before_and_after_a_watch() {
    let web = CountedWeb::new();
    connections(&web);
    assert_eq!((written(web.cluster.agent()), until(web.cluster.node())), (0, 0));
    let watch = Watch::start(web.cluster.agent(), &[]);
    assert!(until(web.cluster.node()) > now());
    connections(&web);
    watch.expect(20);
    assert_eq!(written(web.cluster.agent()), 20);
    watch.signal(Signal::SIGKILL);
    eventually("events to be off", || {
        let until = until(web.cluster.node());
        holds(until == 0, until)
    });
    connections(&web);
    assert_eq!(written(web.cluster.agent()), 20);
    // What was written before is not shown to who comes later.
    let watch = Watch::start(web.cluster.agent(), &[]);
    connections(&web);
    watch.expect(20);
}

#[test]
fn an_agent_that_is_killed_leaves_nothing_switched_on() {
    let mut web = CountedWeb::new();
    let _watch = Watch::start(web.cluster.agent(), &[]);
    connections(&web);
    eventually("the events to be written", || {
        let count = written(web.cluster.agent());
        holds(count == 20, count)
    });
    let pid = nix::unistd::Pid::from_raw(web.cluster.agent().pid() as i32);
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    assert!(until(web.cluster.node()) > 0, "there was no time to switch off");
    eventually("the deadline to pass", || {
        let (now, until) = (now(), until(web.cluster.node()));
        holds(until < now, format!("{until} is not before {now}"))
    });
    connect_and_close(&web);
    web.cluster.restart(|_| {}).unwrap();
    assert_eq!((written(web.cluster.agent()), until(web.cluster.node())), (20, 0));
}
