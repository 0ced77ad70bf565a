//! Sockets that talk to more services than the table has room for.

use std::collections::BTreeSet;

use sockline_ebpf::socket::{STORAGE_RECORDS, WAYS};
use sockline_testbed::{DnsPods, Protocol, Service};

use super::{ask, numbered, service_per_pod, unconnected};

#[test]
fn a_socket_may_use_more_services_than_its_record_holds() {
    let setup = service_per_pod(20);
    setup.client.run(|| {
        let client = unconnected();
        for round in 0..3 {
            for n in 0..20 {
                assert_eq!(ask(&client, numbered(n)), format!("dns-{n}"), "round {round}");
            }
        }
    });
}

/// More than the table has for one socket, and not more than the kernel remembers.
const OVERFLOWING: usize = WAYS + STORAGE_RECORDS / 2;

/// As many, or the limit of the hash where there is no table (before Linux 5.12).
fn remembered(setup: &DnsPods) -> usize {
    let has_table = setup.cluster.features().unwrap().compare_and_swap;
    if has_table { OVERFLOWING } else { STORAGE_RECORDS }
}

#[test]
fn records_that_overflow_the_table_are_kept_beyond_it() {
    // Three pods each: that all of them keep their pod by chance happens once in 531,441 runs per round,
    // and once in 6,561 where there are eight.
    let mut setup = DnsPods::new(3 * OVERFLOWING).unwrap();
    let services: Vec<_> = (0..OVERFLOWING)
        .map(|n| {
            let ip = numbered(n).ip().to_string();
            let service = Service::new(&format!("svc-{n}")).ip(&ip).udp(53).to(5353);
            service.endpoints(&setup.pods[3 * n..3 * n + 3])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    let count = remembered(&setup);
    let client = setup.client.run(unconnected);
    let round = || -> Vec<_> { (0..count).map(|n| ask(&client, numbered(n))).collect() };
    let first = round();
    setup.cluster.wait_for_sockets(WAYS as u64).unwrap();
    assert_eq!((round(), round()), (first.clone(), first));
    for n in 0..count {
        let counts = setup.cluster.counts(&format!("svc-{n}"), Protocol::Udp).unwrap();
        assert_eq!(counts.translated, 1, "svc-{n}: chosen once, recalled twice");
    }
}

#[test]
fn late_answers_to_overflowed_records_come_from_the_service() {
    let setup = service_per_pod(OVERFLOWING);
    let count = remembered(&setup);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..count {
            client.socket().send_to(b"x", numbered(n)).unwrap();
        }
        let from: BTreeSet<_> = (0..count).map(|_| client.receive().unwrap().from).collect();
        assert_eq!(from, (0..count).map(numbered).collect());
    });
}
