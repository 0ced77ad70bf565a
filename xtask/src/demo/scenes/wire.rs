//! One connection: the addresses of the socket, and those of its packets.

use anyhow::{Context, Result};
use sockline_testbed::Protocol;

use crate::{demo::Demo, term};

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let frontend = demo.cluster.shop.frontend("currencyservice", Protocol::Tcp)?.clone();
    // Earlier connections may have had the same client port: the kernel picks it per destination.
    let before = demo.cluster.client_capture.flows()?.clone();
    let reply = demo.cluster.ask(&frontend).context("asking currencyservice")?;
    let pod = demo.cluster.shop.pod(&reply.who).map(|pod| pod.address);

    let mut rows = vec![
        vec![
            "connect()".to_owned(),
            reply.local.to_string(),
            frontend.address.to_string(),
            String::new(),
        ],
        vec![
            "getpeername()".to_owned(),
            reply.local.to_string(),
            reply.peer.to_string(),
            String::new(),
        ],
    ];
    let mut on_wire = Vec::new();
    for (flow, count) in demo.cluster.client_capture.flows()? {
        let (there, direction) = if flow.src == reply.local {
            (flow.dst, "packets out")
        } else if flow.dst == reply.local {
            (flow.src, "packets in")
        } else {
            continue;
        };
        let count = count - before.get(flow).copied().unwrap_or(0);
        if count == 0 {
            continue;
        }
        on_wire.push(there.ip());
        rows.push(vec![
            direction.to_owned(),
            reply.local.to_string(),
            there.to_string(),
            count.to_string(),
        ]);
    }
    term::table(&["seen by", "client", "other side", "packets"], &rows);
    println!();
    demo.checks.claim(
        reply.peer == frontend.address,
        &format!("getpeername() returns the service's address, {}", frontend.address),
    );
    demo.checks.claim(
        !on_wire.is_empty() && on_wire.iter().all(|address| Some(*address) == pod),
        &format!("every packet was between the client and the pod {}", reply.who),
    );
    Ok(())
}
