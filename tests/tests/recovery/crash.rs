//! An agent that is killed at any of its system calls leaves a state that the next one completes or reverts.
//!
//! A few calls of each kind are chosen at random; `SOCKLINE_EVERY_CALL=1` takes them all, one after
//! the other (`cargo xtask chaos --every-call`).

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::common::{CART, WebNode, eventually, hammer::Hammer, ip, options};
use serde_json::Value;
use sockline_testbed::{
    Agent, AgentOptions, Build,
    bpf::RawMap,
    objects,
    strace::{self, KillAt},
};

const SHIP: &str = "10.96.0.2";

/// Chosen of each kind of call.
const SAMPLE: usize = 3;

/// A node, and the agent that was ready last, which has ended.
struct Killing {
    node: WebNode,
    last: Option<Agent>,
    /// Connects continuously, where a service is always there.
    hammer: Option<Hammer>,
    build: Build,
    /// What a healthy node has pinned, without inner maps, whose names are their ids.
    pins: BTreeSet<PathBuf>,
    random: fastrand::Rng,
    seed: u64,
    rounds: usize,
}

impl Killing {
    fn new() -> Self {
        let seed = env::var("SOCKLINE_KILL_SEED")
            .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("SOCKLINE_KILL_SEED={seed}");
        let node = WebNode::new(2);
        node.put_service("cart", CART);
        node.put_service("ship", SHIP);
        let mut this = Self {
            node,
            last: None,
            hammer: None,
            build: Build::This,
            pins: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
            seed,
            rounds: 0,
        };
        let mut agent = this.node.agent(&this.options(Build::This, None)).unwrap();
        this.pins = this.pinned();
        agent.stop().unwrap();
        this.last = Some(agent);
        this
    }

    fn hammered(mut self) -> Self {
        let addresses = vec![(ip(CART), 80).into(), (ip(SHIP), 80).into()];
        self.hammer = Some(Hammer::start(&self.node.client, addresses));
        self
    }

    fn end(self) {
        if let Some(hammer) = self.hammer {
            hammer.assert_nothing_failed();
        }
    }

    fn options(&self, build: Build, binary: Option<PathBuf>) -> AgentOptions {
        let binary = Some(binary.unwrap_or_else(|| build.binary().unwrap()));
        AgentOptions { binary, ..options(&[]) }
    }

    /// What is pinned, relative to the folder of its layout; without the inner maps.
    fn pinned(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        walk(&self.layout(), &mut found);
        found.into_iter().filter(|path| !path.starts_with("maps/inner")).collect()
    }

    /// The folder of the only layout.
    fn layout(&self) -> PathBuf {
        let root = self.node.bpffs().join("sockline");
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let layouts: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        assert_eq!(layouts.len(), 1, "not one layout: {layouts:?}, seed {}", self.seed);
        layouts[0].clone()
    }

    /// Changes for the first sync: one service more or less, and other endpoints.
    fn change(&mut self) {
        self.rounds += 1;
        let addresses = self.node.web_addresses();
        let some = &addresses[self.rounds % 2..];
        self.node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", some)]);
        if self.rounds.is_multiple_of(2) {
            self.node.put_service("mail", "10.96.0.3");
        } else if self.rounds > 1 {
            self.node.remove("mail.yaml");
        }
    }

    /// The system calls of a start of this build from this state.
    fn count(&mut self, build: Build, call: &'static str) -> BTreeSet<usize> {
        let log = self.node.temp().join("calls");
        let program = strace::counted(self.node.temp(), build, call, &log).unwrap();
        self.change();
        let mut agent = self.node.agent(&self.options(build, Some(program))).unwrap();
        agent.stop().unwrap();
        self.build = build;
        // The old handle is dropped first: that of the newest agent removes the kernel state.
        self.last = Some(agent);
        strace::calls_in(&log).unwrap()
    }

    /// Starts an agent that is killed at a system call, and then one that is not.
    fn kill(&mut self, build: Build, next: Build, at: KillAt) {
        self.change();
        let program = strace::killed_at(self.node.temp(), build, at).unwrap();
        let mut agent = self.node.spawn_agent(&self.options(build, Some(program))).unwrap();
        let what = format!("{build:?} killed at {at:?}, then {next:?}, seed {}", self.seed);
        // A thread that other events wake may not reach this call.
        eventually(&what, || match agent.try_wait().unwrap() {
            Some(status) if status.code().is_some() => panic!("{what}: {status}, {}", agent.log()),
            Some(_) => Ok(()),
            None if agent.get("/readyz").is_ok_and(|reply| reply.status == 200) => {
                agent.kill().unwrap();
                Ok(())
            }
            None => Err(agent.log()),
        });
        self.last = Some(agent);
        let mut agent = self.node.agent(&self.options(next, None)).unwrap();
        self.build = next;
        self.assert_sound(&agent, &what);
        agent.stop().unwrap();
        self.last = Some(agent);
    }

    /// The connects that failed so far, to report after which kill they failed.
    fn failed(&self) -> usize {
        self.hammer.as_ref().map_or(0, Hammer::failed)
    }

    #[track_caller]
    fn assert_sound(&self, agent: &Agent, what: &str) {
        assert_eq!(self.failed(), 0, "{what}: connects failed");
        for service in [CART, SHIP] {
            if let Err(error) = self.node.ask(service) {
                panic!("{what}: {service} is not served: {error}");
            }
        }
        let mail = self.node.ask("10.96.0.3");
        assert_eq!(mail.is_ok(), self.rounds.is_multiple_of(2), "{what}: {mail:?}");
        assert_eq!(self.pinned(), self.pins, "{what}: other pins than after a clean start");
        let maps = self.layout().join("maps");
        let of = |name: &str| RawMap::pinned(&maps.join(name)).unwrap().inner_ids().unwrap();
        let wanted: BTreeSet<String> = ["FRONTENDS", "SLOTS", "BACKENDS"]
            .into_iter()
            .flat_map(of)
            .map(|id| id.to_string())
            .collect();
        let entries = fs::read_dir(maps.join("inner")).unwrap();
        let inner: BTreeSet<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(inner, wanted, "{what}: pins of inner maps");
        let cgroup = self.node.cgroup().to_str().unwrap();
        let report = agent.cli(&["check", "--cgroup-root", cgroup, "-o", "json"]);
        let report: Value = serde_json::from_str(&report.unwrap()).unwrap();
        for result in report["results"].as_array().unwrap() {
            assert_ne!(result["state"], "failed", "{what}: {result}");
        }
    }

    /// The calls to be killed at.
    fn chosen(&mut self, call: &'static str, all: BTreeSet<usize>) -> Vec<KillAt> {
        let count = all.len();
        let numbers: Vec<usize> = if env::var_os("SOCKLINE_EVERY_CALL").is_some() {
            all.into_iter().collect()
        } else {
            self.random.choose_multiple(all, SAMPLE)
        };
        println!("{call}: {count} calls; killed at {numbers:?}");
        numbers.into_iter().map(|number| KillAt { call, number }).collect()
    }
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    fn below(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                below(root, &entry.path(), found);
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    below(folder, folder, found);
}

/// System calls that change the kernel's state or a folder of pins.
const CALLS: [&str; 5] = ["bpf", "mkdir", "rename", "unlink", "rmdir"];

#[test]
fn an_agent_killed_during_its_first_start_is_recovered_from() {
    let mut killing = Killing::new();
    let from_nothing = |killing: &Killing| {
        killing.last.as_ref().unwrap().cli(&["cleanup"]).unwrap();
    };
    for call in CALLS {
        from_nothing(&killing);
        let count = killing.count(Build::This, call);
        for at in killing.chosen(call, count) {
            from_nothing(&killing);
            killing.kill(Build::This, Build::This, at);
        }
    }
}

#[test]
fn an_agent_killed_while_it_takes_over_is_recovered_from() {
    let mut killing = Killing::new().hammered();
    for call in CALLS {
        let count = killing.count(Build::This, call);
        for at in killing.chosen(call, count) {
            killing.kill(Build::This, Build::This, at);
        }
    }
    killing.end();
}

#[test]
fn an_agent_killed_while_it_changes_the_layout_is_recovered_from() {
    let mut killing = Killing::new().hammered();
    let other = |build: Build| {
        if build == Build::This { Build::OtherLayout } else { Build::This }
    };
    for call in CALLS {
        let count = killing.count(other(killing.build), call);
        for at in killing.chosen(call, count) {
            let (before, next) = (killing.build, other(killing.build));
            let last = if killing.random.bool() { before } else { next };
            killing.kill(next, last, at);
        }
    }
    killing.end();
}
