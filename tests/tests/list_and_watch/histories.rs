//! Random histories: objects change while the server fails in all known ways. In the end, the plan must be
//! that of the server's objects.
//!
//! `SOCKLINE_HISTORIES` is how many; `SOCKLINE_HISTORY_SEED` the first one's number. What a failure
//! prints is enough to see it again.

use std::{
    env,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use fastrand::Rng;
use sockline_testbed::api::{Api, Cut, Fault, Refusal, Resource};
use tokio::time::sleep;

use super::{
    expected::Expected,
    objects,
    random::{self, Allow, Change},
    watched::Watched,
};

/// How many there are in every run of the tests.
const HISTORIES: u64 = 2_500;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn after_any_history_the_plan_is_that_of_the_servers_objects() {
    let first = number("SOCKLINE_HISTORY_SEED").unwrap_or(0);
    let alone = u64::from(number("SOCKLINE_HISTORY_SEED").is_some());
    let count = number("SOCKLINE_HISTORIES").unwrap_or(if alone == 1 { 1 } else { HISTORIES });
    let next = AtomicU64::new(first);
    let run = || -> Result<(), String> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return Ok(());
            }
            if let Err(what) = history(seed) {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                return Err(format!("SOCKLINE_HISTORY_SEED={seed} shows it again:\n{what}"));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let results: Vec<Result<(), String>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in results {
        if let Err(what) = result {
            panic!("{what}");
        }
    }
}

/// Plays one history; the error has the difference and the steps.
fn history(seed: u64) -> Result<(), String> {
    // The source's own draws.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut history = History::new(seed);
        history.play().await.map_err(|what| format!("{}\n{what}", history.done))
    })
}

struct History {
    rng: Rng,
    api: Api,
    /// The version from which on there was everything that never changes.
    beginning: u64,
    watched: Watched,
    /// The steps, for a reader.
    done: String,
}

/// A service that never changes: it must be served from the first sync on.
const ANCHOR: &str = "anchor";

const CUTS: [Cut; 6] =
    [Cut::End, Cut::Between, Cut::Within, Cut::Expired, Cut::Silence, Cut::Corrupt];

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let api = objects::cluster(&[ANCHOR]);
        let beginning = api.version();
        for _ in 0..rng.u8(..30) {
            apply(&api, &random::change(&mut rng, Allow::Anything));
        }
        api.limit_pages(rng.usize(1..20));
        let watched = Watched::start(&api);
        Self { rng, api, beginning, watched, done: String::new() }
    }

    async fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.u8(1..4) {
            for _ in 0..self.rng.u8(1..30) {
                self.step().await;
                self.watched.take_in();
                self.anchor_is_served()?;
            }
            for resource in Resource::ALL {
                self.api.lift(resource);
            }
            self.note("all faults end");
            let expected = Expected::of(&self.api);
            // What was answered before is still on its way.
            self.watched.pass(Duration::from_millis(50)).await;
            self.watched.reach(&expected).await?;
            // And stays so, however late something comes. (Of a watch that ended just before, there
            // may be an error for a moment.)
            self.watched.pass(Duration::from_millis(self.rng.u64(..20_000))).await;
            if let Some(difference) = expected.plan_difference(&self.watched.index.plan()) {
                return Err(format!("it was right and did not stay so\n{difference}"));
            }
            self.watched.reach(&expected).await?;
            self.anchor_is_served()?;
        }
        Ok(())
    }

    async fn step(&mut self) {
        let resource = Resource::ALL[self.rng.usize(..Resource::ALL.len())];
        match self.rng.u8(..100) {
            0..50 => {
                let change = random::change(&mut self.rng, Allow::Anything);
                self.note(&format!("{} {}", self.api.version() + 1, brief(&change)));
                apply(&self.api, &change);
            }
            50..65 => {
                let most = [10, 10, 2_000, 2_000, 150_000][self.rng.usize(..5)];
                let time = Duration::from_millis(self.rng.u64(..most));
                self.note(&format!("{time:?} pass"));
                if self.rng.bool() {
                    self.watched.pass(time).await;
                } else {
                    // The test receives no events meanwhile.
                    sleep(time).await;
                }
            }
            65..75 => {
                let fault = self.fault();
                let all = self.rng.u8(..4) == 0;
                self.note(&format!("{resource:?} (all: {all}): {fault:?}"));
                for other in Resource::ALL {
                    if all || other == resource {
                        self.api.fault(other, fault.clone());
                    }
                }
            }
            75..79 => {
                let fault = self.fault();
                self.note(&format!("{resource:?} once: {fault:?}"));
                self.api.fault_once(resource, fault);
            }
            79..83 => {
                self.note(&format!("{resource:?} works"));
                self.api.lift(resource);
            }
            83..91 => {
                let cut = CUTS[self.rng.usize(..CUTS.len())];
                let all = self.rng.u8(..4) == 0;
                self.note(&format!("{resource:?} (all: {all}) cut: {cut:?}"));
                for other in Resource::ALL {
                    if all || other == resource {
                        self.api.cut(other, cut);
                    }
                }
            }
            91 | 92 => {
                // A busy connection that is cut loses the events in transit.
                let (cut, lost) = (CUTS[self.rng.usize(..CUTS.len())], self.rng.u8(1..5));
                self.note(&format!("{resource:?} cut: {cut:?}, with events on their way"));
                self.api.hold(resource);
                for _ in 0..lost {
                    let change = random::change(&mut self.rng, Allow::Anything);
                    self.note(&format!("{} {}", self.api.version() + 1, brief(&change)));
                    apply(&self.api, &change);
                }
                self.api.cut(resource, cut);
                self.api.release(resource);
            }
            93 => {
                let held = self.rng.bool();
                self.note(&format!("{resource:?} held: {held}"));
                if held {
                    self.api.hold(resource);
                } else {
                    self.api.release(resource);
                }
            }
            94..96 => {
                self.note("compact");
                self.api.compact();
                self.beginning = self.beginning.max(self.api.version() - 1);
            }
            96 => {
                self.note(&format!("{resource:?} bookmark"));
                self.api.bookmark(resource);
            }
            97 => {
                let events = self.rng.usize(1..6);
                self.note(&format!("{resource:?} repeats {events}"));
                self.api.repeat(resource, events);
            }
            98 => {
                self.note(&format!("{resource:?} says nonsense"));
                self.api.say(resource, "{\"type\":\"ADDED\",\n");
            }
            _ => {
                let refusal = Refusal::internal_error();
                self.note(&format!("{resource:?} error event"));
                self.api.say(resource, &refusal.event());
                self.api.cut(resource, Cut::End);
            }
        }
    }

    fn fault(&mut self) -> Fault {
        match self.rng.u8(..20) {
            0 | 1 => Fault::Hang,
            2 => Fault::Close,
            3 => Fault::Refuse(Refusal::too_many_requests(self.rng.u32(1..20))),
            4 => Fault::Refuse(Refusal::internal_error()),
            5 => Fault::Refuse(Refusal::unavailable()),
            6 => Fault::Refuse(Refusal::new(401, "Unauthorized", "Unauthorized")),
            7 => Fault::Refuse(Refusal::new(403, "Forbidden", "forbidden")),
            8 => Fault::Gone,
            9 => Fault::GoneEvent,
            10 => Fault::NoStreamingLists,
            11 => Fault::EndlessList,
            12 => Fault::NoFieldSelector,
            13 => Fault::NoBookmarks,
            14 => Fault::BookmarkStorm,
            15 => Fault::Trickle,
            16 => Fault::BrokenList,
            17 | 18 => Fault::CatchingUp(self.rng.u64(self.beginning..=self.api.version())),
            _ => Fault::Stale(self.rng.u64(self.beginning..=self.api.version())),
        }
    }

    /// Objects that do not change are never missing from the plan once they were in it.
    fn anchor_is_served(&mut self) -> Result<(), String> {
        if !self.watched.index.synced() {
            return Ok(());
        }
        let plan = self.watched.index.plan();
        let served = plan
            .frontends
            .iter()
            .any(|frontend| &*frontend.service.name == ANCHOR && frontend.backends.len() == 1);
        if served { Ok(()) } else { Err(format!("{ANCHOR} is not served: {plan:#?}")) }
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.done, "{what}");
    }
}

fn apply(api: &Api, change: &Change) {
    match change {
        Change::Apply(object) => api.apply(object),
        Change::Delete(object) => api.delete(object),
    }
}

fn brief(change: &Change) -> String {
    let (verb, object) = match change {
        Change::Apply(object) => ("apply", object),
        Change::Delete(object) => ("delete", object),
    };
    let name = &object["metadata"]["name"];
    format!("{verb} {} {}/{name}", object["kind"], object["metadata"]["namespace"])
}
