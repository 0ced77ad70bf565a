//! All packets so far by their addresses, and the entries of connection tracking.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use sockline_testbed::Capture;

use crate::{demo::Demo, term};

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let cluster = &mut demo.cluster;
    let services = cluster.shop.service_addresses();
    let pods: BTreeSet<IpAddr> = cluster.shop.pods.iter().map(|pod| pod.address).collect();
    let client = Count::of(&mut cluster.client_capture, &services, &pods)?;
    let node = Count::of(&mut cluster.node_capture, &services, &pods)?;
    let tracked = [cluster.client.conntrack_entries(), cluster.node.conntrack_entries()];

    let row = |place: &str, count: &Count, tracked: Option<u64>| {
        let tracked = tracked.map_or_else(|| "not in this kernel".to_owned(), |n| n.to_string());
        vec![place.to_owned(), count.service.to_string(), count.pod.to_string(), tracked]
    };
    term::table(
        &["where", "packets with a service address", "with a pod address", "conntrack entries"],
        &[
            row("client's namespace", &client, tracked[0]),
            row("node, all devices", &node, tracked[1]),
        ],
    );
    println!();
    demo.checks.claim(
        client.service == 0 && node.service == 0,
        "no packet had a service address, so there was nothing to translate back",
    );
    demo.checks.claim(client.pod > 0, "the packets had addresses of pods");
    if tracked.iter().all(Option::is_none) {
        println!("  - this kernel has no connection tracking at all");
    } else {
        demo.checks.claim(
            tracked.iter().flatten().all(|entries| *entries == 0),
            "connection tracking has no entry",
        );
    }
    Ok(())
}

/// Packets whose source or destination is an address of a kind.
struct Count {
    service: u64,
    pod: u64,
}

impl Count {
    fn of(
        capture: &mut Capture,
        services: &BTreeSet<IpAddr>,
        pods: &BTreeSet<IpAddr>,
    ) -> Result<Self> {
        let mut among = |addresses: &BTreeSet<IpAddr>| {
            capture.packets(|flow| {
                addresses.contains(&flow.src.ip()) || addresses.contains(&flow.dst.ip())
            })
        };
        Ok(Self { service: among(services)?, pod: among(pods)? })
    }
}
