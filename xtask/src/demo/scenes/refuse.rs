//! A service without endpoints, the only case in which Sockline refuses a connection.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::Result;
use sockline_testbed::{DEADLINE, Protocol, wait_ok};

use crate::{demo::Demo, term};

/// Far longer than a system call, far shorter than a timeout of TCP.
const AT_ONCE: Duration = Duration::from_millis(50);

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let frontend = demo.cluster.shop.frontend("adservice", Protocol::Tcp)?.clone();
    println!("  all endpoints of `adservice` are removed");
    let before = demo.cluster.manifests.remove_endpoints("adservice", None)?;
    let refused = wait_ok(DEADLINE, "adservice to refuse", || {
        demo.interrupt.check().map_err(|error| error.to_string()).and_then(|()| {
            match demo.cluster.ask(&frontend) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(reply) => Err(format!("{} still answers", reply.who)),
            }
        })
    });
    demo.interrupt.check()?;

    let packets_before = demo.cluster.client_capture.packets(|_| true)?;
    let (answer, took) = demo.cluster.client.run(|| {
        let start = Instant::now();
        let answer = sockline_testbed::tcp_ask(frontend.address);
        (answer, start.elapsed())
    });
    let packets = demo.cluster.client_capture.packets(|_| true)? - packets_before;
    let shown = match &answer {
        Ok(reply) => format!("{} answered", reply.who),
        Err(error) => error.to_string(),
    };
    println!("  connect({}) → {shown}, after {}\n", frontend.address, term::seconds(took));
    let is_refused = answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    demo.checks.claim(
        refused.is_ok() && is_refused,
        "connect() fails with ECONNREFUSED once there are no endpoints",
    );
    demo.checks.claim(took < AT_ONCE && packets == 0, "at once, and without a packet");

    demo.cluster.manifests.put_back(&before)?;
    let works = wait_ok(DEADLINE, "adservice to answer again", || {
        demo.cluster.ask(&frontend).map(drop).map_err(|error| error.to_string())
    });
    demo.checks.claim(works.is_ok(), "with its endpoints back, it answers again");
    Ok(())
}
