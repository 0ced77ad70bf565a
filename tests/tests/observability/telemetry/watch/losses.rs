//! Every event is seen, or counted as lost.

use std::{collections::BTreeMap, net::TcpStream, thread};

use super::{
    super::{CountedWeb, V4, at},
    LOSSES, Watch, lost, written,
};
use crate::common::{eventually, holds};

const THREADS: usize = 4;

/// Makes connections in several threads; each is closed by its client, and no connect fails.
fn connect(web: &CountedWeb, count: usize) {
    thread::scope(|scope| {
        let listener = &web.listener;
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..count / THREADS {
                    drop(listener.accept().unwrap());
                }
            });
            scope.spawn(|| {
                web.client.run(|| {
                    for _ in 0..count / THREADS {
                        drop(TcpStream::connect(at(V4)).unwrap());
                    }
                });
            });
        }
    });
}

/// Makes a connection in a thread of this name.
fn connect_as(name: &str, web: &CountedWeb) {
    web.client.run(|| {
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(|| drop(TcpStream::connect(at(V4)).unwrap())).unwrap().join().unwrap();
    });
    drop(web.listener.accept().unwrap());
}

#[test]
fn of_a_thousand_connections_at_once_each_event_is_seen_or_counted() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    connect(&web, 1000);
    eventually("2,000 events to be seen or counted", || {
        let lost = LOSSES.map(|reason| lost(web.cluster.agent(), reason));
        let seen = watch.events().len() as u64;
        holds(seen + lost.iter().sum::<u64>() == 2000, format!("{seen} seen, {lost:?} lost"))
    });
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in watch.events() {
        *kinds.entry(event["event"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(kinds.keys().all(|kind| kind == "opened" || kind == "closed"), "{kinds:?}");
    assert!(kinds.values().all(|&count| count <= 1000), "{kinds:?}");
    assert_eq!(
        written(web.cluster.agent())
            + lost(web.cluster.agent(), "ring-full")
            + lost(web.cluster.agent(), "sampled"),
        2000
    );
}

#[test]
fn who_does_not_read_loses_events_and_delays_nobody() {
    let web = CountedWeb::new();
    let mut slow = Watch::unread(web.cluster.agent(), &[]);
    let quick = Watch::start(web.cluster.agent(), &[]);
    let mut made = 0;
    // The queue and all that lies behind it have room for some 3,000 events.
    eventually("the queue to be full", || {
        connect(&web, 1000);
        made += 2000;
        let counts = (written(web.cluster.agent()), lost(web.cluster.agent(), "slow-reader"));
        holds(counts.0 > 6000 && counts.1 > 0, format!("{counts:?}"))
    });
    eventually("who reads to see what happens while the other queue is full", || {
        connect_as("while-full", &web);
        made += 2;
        let events = quick.events();
        let seen = events.iter().any(|event| event["client"]["process"]["name"] == "while-full");
        holds(seen, format!("{} events", events.len()))
    });
    slow.read();
    // On a busy machine the one that reads may lose some as well: the agent counts them together.
    let mut losses = [0, 0];
    eventually("each event to be seen or counted, for each of the two", || {
        let unwritten: u64 =
            LOSSES[..2].iter().map(|reason| lost(web.cluster.agent(), reason)).sum();
        let dropped = lost(web.cluster.agent(), "slow-reader");
        let missing = |watch: &Watch| made - unwritten - watch.events().len() as u64;
        losses = [&slow, &quick].map(missing);
        holds(losses.iter().sum::<u64>() == dropped, format!("{losses:?} of {made}: {dropped}"))
    });
    assert!(losses[0] > 0, "{losses:?}");
    // The agent sends what was lost as soon as there is room: behind the first of these connections at the latest.
    for _ in 0..2 {
        let before = slow.events().len();
        drop(web.connection(at(V4)));
        slow.expect(before + 2);
    }
    let (status, said, _) = slow.interrupt();
    assert!(status.success());
    let expected = format!("{} events were lost: they were not read in time", losses[0]);
    assert!(said.lines().any(|line| line == expected), "{said:?} has not {expected:?}");
}
