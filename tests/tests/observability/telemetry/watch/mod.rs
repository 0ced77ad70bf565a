//! `sockline watch`: what it shows equals what the applications did, and nothing is written while nobody watches.

mod clients;
mod commands;
mod kinds;
mod losses;
mod switch;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sockline_testbed::{Agent, Metrics, sockline_binary};

use crate::common::{end_of, eventually, holds};

/// A running `sockline watch -o json`, whose output is read.
pub(super) struct Watch {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it, and waits until programs write events.
    pub(super) fn start(agent: &Agent, args: &[&str]) -> Self {
        let mut this = Self::unread(agent, args);
        this.read();
        this
    }

    /// The same; nobody reads what it prints.
    fn unread(agent: &Agent, args: &[&str]) -> Self {
        let before = watchers(agent);
        let child = command(agent, &[args, &["-o", "json"]].concat()).spawn().unwrap();
        eventually("the agent to know the watcher", || {
            let now = watchers(agent);
            holds(now > before, now)
        });
        Self { child, events: Arc::default(), reader: None }
    }

    fn read(&mut self) {
        let (output, events) = (self.child.stdout.take().unwrap(), Arc::clone(&self.events));
        self.reader = Some(std::thread::spawn(move || read(output, &events)));
    }

    pub(super) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// How many events it has shown so far.
    pub(super) fn count(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    /// Waits for this many events, and fails if there are more by then. That there will be none proves only an event
    /// that happened later.
    #[track_caller]
    fn expect(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} events"), || {
            let events = self.events();
            holds(events.len() == count, format!("{events:#?}"))
        });
        self.events()
    }

    /// Ends it as Ctrl-C does: how it ended, and what it wrote to standard error.
    fn interrupt(self) -> (ExitStatus, String, Vec<Value>) {
        self.end(Signal::SIGINT)
    }

    fn end(mut self, signal: Signal) -> (ExitStatus, String, Vec<Value>) {
        self.signal(signal);
        let status = end_of(&mut self.child);
        self.reader.take().unwrap().join().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said, self.events())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(output: ChildStdout, events: &Mutex<Vec<Value>>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        events.lock().unwrap().push(serde_json::from_str(&line).unwrap());
    }
}

/// `sockline watch` of an agent.
fn command(agent: &Agent, args: &[&str]) -> Command {
    let mut command = Command::new(sockline_binary().unwrap());
    command.args(["watch", "--admin-socket", agent.admin_socket().to_str().unwrap()]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn metric(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> u64 {
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    metrics.sum(&format!("sockline_{name}"), labels) as u64
}

fn watchers(agent: &Agent) -> u64 {
    metric(agent, "event_watchers", &[])
}

fn written(agent: &Agent) -> u64 {
    metric(agent, "events_written_total", &[])
}

/// Why events are lost.
pub(super) const LOSSES: [&str; 3] = ["ring-full", "sampled", "slow-reader"];

pub(super) fn lost(agent: &Agent, reason: &str) -> u64 {
    metric(agent, "events_lost_total", &[("reason", reason)])
}
