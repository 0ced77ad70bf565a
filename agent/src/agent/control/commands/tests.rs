//! The result of each command in each state of the agent.

use std::time::Instant;

use tokio::sync::oneshot;

use super::*;
use crate::{
    model::{
        object::{Pod, Redirect},
        testing::{name, pod, sourced},
    },
    source::Event,
};

const WAITS: &str = "the agent waits for its first full sync";
const FULL: &str = "map `FRONTENDS` is full";

/// A node whose data plane records what it was asked for.
struct Fake {
    index: Index,
    synced: bool,
    /// The error of the data plane.
    broken: Option<String>,
    probes: Vec<u64>,
    comparisons: usize,
    /// Hooks.
    logged: Vec<String>,
}

impl Fake {
    /// With the pod `ns/web` on this node, and `ns/far` on another one.
    fn new() -> Self {
        let mut index = Index::new("node-a");
        for pod in [pod("web", "node-a"), pod("far", "node-b")] {
            index.apply_arrived(Event::Apply(sourced(pod)), Instant::now());
        }
        Self {
            index,
            synced: true,
            broken: None,
            probes: Vec::new(),
            comparisons: 0,
            logged: Vec::new(),
        }
    }

    fn before_the_first_sync() -> Self {
        Self { synced: false, ..Self::new() }
    }

    fn with_a_failing_data_plane() -> Self {
        Self { broken: Some(FULL.to_owned()), ..Self::new() }
    }

    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, mut received) = oneshot::channel();
        handle(self, command(reply));
        received.try_recv().expect("a command is answered at once")
    }

    /// As [`Self::ask`], for a client that has disconnected.
    fn ask_and_disconnect<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) {
        let (reply, received) = oneshot::channel();
        drop(received);
        handle(self, command(reply));
    }

    fn probe(&mut self) -> Result<ProbeService, String> {
        self.ask(|reply| Command::AddProbeService { listeners: Listeners::default(), reply })
    }

    fn drift(&mut self) -> Result<Drift, String> {
        self.ask(|reply| Command::FindDrift { reply })
    }

    fn explain(&mut self, service: &str) -> Result<Explanation, String> {
        self.ask(|reply| Command::Explain { subject: subject(service), reply })
    }

    fn look_up(&mut self, pod: &str) -> Result<bool, String> {
        self.ask(|reply| Command::LookUpPod { pod: name(pod), reply })
            .map(|found| found.on_this_node)
    }

    fn log(&mut self, hooks: Option<&str>) -> Result<(), String> {
        let request = hooks.map(|hook| ProgramLogRequest {
            hooks: vec![hook.to_owned()],
            service: None,
            port: None,
            seconds: 60,
        });
        self.ask(|reply| Command::LogPrograms { request, reply })
    }

    fn names(&mut self) -> Vec<String> {
        let uids = ["uid-web", "uid-far", "uid-none"].map(ToOwned::to_owned).to_vec();
        let found = self.ask(|reply| Command::FindPods(PodQuery { uids, reply }));
        let mut names: Vec<String> = found.values().map(|pod| pod.name.to_string()).collect();
        names.sort_unstable();
        names
    }
}

impl Node for Fake {
    fn index(&self) -> &Index {
        &self.index
    }

    fn is_synced(&self) -> bool {
        self.synced
    }

    fn add_probe_service(&mut self, _: Listeners) -> Result<ProbeService, String> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let number = self.probes.len() as u64 + 1;
        self.probes.push(number);
        Ok(ProbeService::new(number, 7))
    }

    fn remove_probe_service(&mut self, service: &ProbeService) {
        self.probes.retain(|number| *number != service.number);
    }

    fn compare(&mut self) -> Result<Drift, String> {
        self.comparisons += 1;
        let drift = Drift { frontends_missing: 3, ..Drift::default() };
        self.broken.clone().map_or(Ok(drift), Err)
    }

    fn log_programs(&mut self, request: Option<ProgramLogRequest>) -> Result<(), String> {
        self.logged = request.map_or_else(Vec::new, |request| request.hooks);
        Ok(())
    }

    fn further_input_error(&self, service: &ObjectName) -> Option<String> {
        (&*service.name == "kubernetes").then(|| "no endpoint is listed".to_owned())
    }
}

fn subject(service: &str) -> Subject {
    Subject { service: name(service), port: None }
}

#[test]
fn before_the_first_full_sync_commands_are_refused_and_nothing_is_asked_of_the_data_plane() {
    let mut node = Fake::before_the_first_sync();
    assert_eq!(node.probe(), Err(WAITS.to_owned()));
    assert_eq!(node.drift(), Err(WAITS.to_owned()));
    assert_eq!(node.explain("cart"), Err(WAITS.to_owned()));
    assert_eq!(node.look_up("web"), Err(WAITS.to_owned()));
    assert_eq!((node.probes.len(), node.comparisons), (0, 0));
    // Events of connections have the names that are known by then.
    assert_eq!(node.names(), ["ns/far", "ns/web"]);
}

#[test]
fn a_synced_agent_answers_each_command() {
    let mut node = Fake::new();
    let probe = node.probe().unwrap();
    assert_eq!(node.probes, [probe.number]);
    assert_eq!(node.drift().unwrap().frontends_missing, 3);
    assert_eq!(node.explain("cart"), Ok(Explanation::default()));
    assert_eq!(node.explain("kubernetes").unwrap().input_errors, ["no endpoint is listed"]);
    assert_eq!(
        ["web", "far", "none"].map(|pod| node.look_up(pod)),
        [Ok(true), Ok(false), Ok(false)]
    );
    assert_eq!(node.names(), ["ns/far", "ns/web"]);
    handle(&mut node, Command::RemoveProbeService(probe));
    assert_eq!(node.probes, [0; 0]);
}

#[test]
fn the_error_of_a_failing_data_plane_is_the_answer_and_what_needs_none_is_answered() {
    let mut node = Fake::with_a_failing_data_plane();
    assert_eq!(node.probe(), Err(FULL.to_owned()));
    assert_eq!(node.drift(), Err(FULL.to_owned()));
    assert_eq!(node.explain("cart"), Ok(Explanation::default()));
    assert_eq!(node.look_up("web"), Ok(true));
    assert_eq!(node.names(), ["ns/far", "ns/web"]);
}

#[test]
fn an_excluded_pod_is_found_like_another() {
    let mut node = Fake::new();
    let excluded = Pod { redirect: Some(Redirect::Disabled), ..pod("web", "node-a") };
    node.index.apply_arrived(Event::Apply(sourced(excluded)), Instant::now());
    assert_eq!(node.look_up("web"), Ok(true));
    assert_eq!(node.names(), ["ns/far", "ns/web"]);
}

#[test]
fn for_a_client_that_has_disconnected_nothing_is_compared_and_no_probe_service_stays() {
    let mut node = Fake::new();
    node.ask_and_disconnect(|reply| Command::AddProbeService {
        listeners: Listeners::default(),
        reply,
    });
    node.ask_and_disconnect(|reply| Command::FindDrift { reply });
    node.ask_and_disconnect(|reply| Command::Explain { subject: subject("cart"), reply });
    assert_eq!((node.probes.len(), node.comparisons), (0, 0));
}

#[test]
fn programs_log_after_the_first_sync_and_it_can_always_end() {
    let mut node = Fake::before_the_first_sync();
    assert_eq!(node.log(Some("connect4")), Err(WAITS.to_owned()));
    assert_eq!(node.log(None), Ok(()));
    node.synced = true;
    assert_eq!(node.log(Some("connect4")), Ok(()));
    assert_eq!(node.logged, ["connect4"]);
    assert_eq!(node.log(None), Ok(()));
    assert!(node.logged.is_empty());
}
