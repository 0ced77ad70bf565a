//! How connects spread over backends.

use std::collections::BTreeMap;

use sockline_testbed::{TwoServices, UdpClient, at};

const A: &str = TwoServices::A;

/// How often each pod is hit by `count` connects of one UDP socket: each is a new choice.
fn spread(setup: &TwoServices, count: usize) -> BTreeMap<String, usize> {
    setup.client.run(|| {
        let client = UdpClient::connected(at(A)).unwrap();
        let mut hits = BTreeMap::new();
        for _ in 0..count {
            client.socket().connect(at(A)).unwrap();
            *hits.entry(client.ask("x").unwrap().who).or_default() += 1;
        }
        hits
    })
}

/// Pearson's statistic for "all equally likely", and the limit it passes once in a million runs
/// (Wilson and Hilferty's approximation; 4.75 is that quantile of the normal distribution).
fn chi_square(hits: &BTreeMap<String, usize>, backends: usize) -> (f64, f64) {
    let total: usize = hits.values().sum();
    let expected = total as f64 / backends as f64;
    let missing = (backends - hits.len()) as f64 * expected;
    let squares = hits.values().map(|count| (*count as f64 - expected).powi(2) / expected);
    let freedom = backends as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    let limit = freedom * (1.0 - spread + 4.75 * spread.sqrt()).powi(3);
    (squares.sum::<f64>() + missing, limit)
}

#[test]
fn connects_spread_evenly() {
    // 7 is no power of two: a choice by remainder or by bits would be biased.
    for backends in [2, 7] {
        let mut setup = TwoServices::new(backends, 0).unwrap();
        setup.cluster.apply([TwoServices::a(&setup.a)]).unwrap();
        let hits = spread(&setup, 5000);
        let (found, limit) = chi_square(&hits, backends);
        assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {hits:?}");
    }
}

#[test]
fn connects_still_spread_evenly_after_many_changes() {
    let mut setup = TwoServices::new(6, 0).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a)]).unwrap();
    for n in 0..30 {
        let some = setup.a.iter().enumerate().filter(|(i, _)| (i + n) % 6 > n % 3);
        let some: Vec<_> = some.map(|(_, pod)| pod).collect();
        setup.cluster.change([TwoServices::a(some)]).unwrap();
    }
    setup.cluster.apply([TwoServices::a(&setup.a[1..])]).unwrap();
    let hits = spread(&setup, 4000);
    assert_eq!(hits.get("a-0"), None, "{hits:?}");
    let (found, limit) = chi_square(&hits, 5);
    assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {hits:?}");
}

#[test]
fn consecutive_choices_do_not_follow_a_pattern() {
    let mut setup = TwoServices::new(4, 0).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a)]).unwrap();
    let order: Vec<String> = setup.client.run(|| {
        let client = UdpClient::connected(at(A)).unwrap();
        let once = |_| {
            client.socket().connect(at(A)).unwrap();
            client.ask("x").unwrap().who
        };
        (0..3000).map(once).collect()
    });
    let mut pairs = BTreeMap::new();
    for pair in order.chunks_exact(2) {
        *pairs.entry(pair.concat()).or_default() += 1;
    }
    let (found, limit) = chi_square(&pairs, 16);
    assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {pairs:?}");
}
