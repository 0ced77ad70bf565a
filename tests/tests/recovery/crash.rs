//! An agent that is killed at any of its system calls leaves what the next one finishes or undoes.
//!
//! A few calls of each kind are chosen at random; `SOCKLINE_EVERY_CALL=1` takes them all, one after
//! the other (`cargo xtask chaos --every-call`).

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::common::{Stage, eventually, hammer::Hammer, ip, options};
use serde_json::Value;
use sockline_testbed::{
    Agent, AgentOptions, Build,
    bpf::RawMap,
    objects,
    strace::{self, KillAt},
};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

/// Chosen of each kind of call.
const SAMPLE: usize = 3;

/// A node, and the agent that was ready last, which has ended.
struct Killing {
    stage: Stage,
    last: Option<Agent>,
    /// Connects all the time, where there is something to connect to all the time.
    hammer: Option<Hammer>,
    build: Build,
    /// What a sound node has pinned, but for inner maps, which go by their ids.
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
        let stage = Stage::new(2);
        stage.put_service("cart", CART);
        stage.put_service("ship", SHIP);
        let mut this = Self {
            stage,
            last: None,
            hammer: None,
            build: Build::This,
            pins: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
            seed,
            rounds: 0,
        };
        let mut agent = this.stage.node.agent(&this.options(Build::This, None)).unwrap();
        this.pins = this.pinned();
        agent.stop().unwrap();
        this.last = Some(agent);
        this
    }

    fn hammered(mut self) -> Self {
        let addresses = vec![(ip(CART), 80).into(), (ip(SHIP), 80).into()];
        self.hammer = Some(Hammer::start(&self.stage.client, addresses));
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

    /// What is pinned, relative to the folder of its layout; the inner maps left out.
    fn pinned(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        walk(&self.layout(), &mut found);
        found.into_iter().filter(|path| !path.starts_with("maps/inner")).collect()
    }

    /// The folder of the only layout.
    fn layout(&self) -> PathBuf {
        let root = self.stage.node.bpffs().join("sockline");
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let layouts: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        assert_eq!(layouts.len(), 1, "not one layout: {layouts:?}, seed {}", self.seed);
        layouts[0].clone()
    }

    /// Something for the first sync to do: a service more or less, and other endpoints.
    fn change(&mut self) {
        self.rounds += 1;
        let addresses = self.stage.addresses();
        let some = &addresses[self.rounds % 2..];
        self.stage
            .put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", some)]);
        if self.rounds.is_multiple_of(2) {
            self.stage.put_service("mail", "10.96.0.3");
        } else if self.rounds > 1 {
            self.stage.remove("mail.yaml");
        }
    }

    /// The calls there are to be killed at, in a start of this build from here.
    fn count(&mut self, build: Build, call: &'static str) -> BTreeSet<usize> {
        let log = self.stage.node.temp().join("calls");
        let program = strace::counted(self.stage.node.temp(), build, call, &log).unwrap();
        self.change();
        let mut agent = self.stage.node.agent(&self.options(build, Some(program))).unwrap();
        agent.stop().unwrap();
        self.build = build;
        // The old handle goes first: the newest one's removes what is in the kernel.
        self.last = Some(agent);
        strace::calls_in(&log).unwrap()
    }

    /// Starts an agent that is killed at a call, and then one that is not.
    fn kill(&mut self, build: Build, next: Build, at: KillAt) {
        self.change();
        let program = strace::killed_at(self.stage.node.temp(), build, at).unwrap();
        let mut agent = self.stage.node.spawn_agent(&self.options(build, Some(program))).unwrap();
        let what = format!("{build:?} killed at {at:?}, then {next:?}, seed {}", self.seed);
        // A thread that makes calls in its own time may not come to this one.
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
        let mut agent = self.stage.node.agent(&self.options(next, None)).unwrap();
        self.build = next;
        self.assert_sound(&agent, &what);
        agent.stop().unwrap();
        self.last = Some(agent);
    }

    /// Connects that failed so far, for a failure that tells after which kill they did.
    fn failed(&self) -> usize {
        self.hammer.as_ref().map_or(0, Hammer::failed)
    }

    #[track_caller]
    fn assert_sound(&self, agent: &Agent, what: &str) {
        assert_eq!(self.failed(), 0, "{what}: connects failed");
        for service in [CART, SHIP] {
            if let Err(error) = self.stage.ask(service) {
                panic!("{what}: {service} is not served: {error}");
            }
        }
        let mail = self.stage.ask("10.96.0.3");
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
        let cgroup = self.stage.node.cgroup().to_str().unwrap();
        let report = agent.cli(&["check", "--cgroup-root", cgroup, "-o", "json"]);
        let report: Value = serde_json::from_str(&report.unwrap()).unwrap();
        for finding in report.as_array().unwrap() {
            assert_ne!(finding["state"], "failed", "{what}: {finding}");
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

/// What changes the kernel's state, or a folder of pins.
const CALLS: [&str; 5] = ["bpf", "mkdir", "rename", "unlink", "rmdir"];

#[test]
fn in_its_first_start_on_a_node() {
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
fn while_it_takes_over_from_another() {
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
fn while_it_changes_the_layout() {
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
