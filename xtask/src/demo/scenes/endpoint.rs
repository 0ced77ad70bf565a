//! An endpoint of a service is removed from the manifests while clients keep connecting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sockline_testbed::{DEADLINE, Protocol};

use crate::{
    demo::{Demo, shop::Frontend},
    term,
};

/// How many connections in a row must not reach an endpoint before it counts as gone. With two others left, chance
/// does that once in ten million times.
const IN_A_ROW: u32 = 40;

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let frontend = demo.cluster.shop.frontend("frontend", Protocol::Tcp)?.clone();
    let name = frontend.pods.first().context("the frontend has no pods")?.clone();
    let pod = demo.cluster.shop.pod(&name).context("the frontend's pod is not in the shop")?;
    let address = pod.address.to_string();

    println!(
        "  {name} ({address}) is removed from the EndpointSlice of `frontend`, and added again"
    );
    println!();
    let before = demo.cluster.manifests.remove_endpoints("frontend", Some(&address))?;
    let leaving = watch(demo, &frontend, &name, |seen| seen.avoided_in_a_row >= IN_A_ROW)?;
    demo.cluster.manifests.put_back(&before)?;
    let coming = watch(demo, &frontend, &name, |seen| seen.last_hit.is_some())?;

    let row = |what: &str, seen: &Seen| {
        vec![
            what.to_owned(),
            seen.last_hit.map_or_else(|| "none".to_owned(), term::seconds),
            seen.connections.to_string(),
            seen.failures.to_string(),
        ]
    };
    term::table(
        &["", "after the edit", "connections made", "failed"],
        &[row("last connection to it", &leaving), row("first connection to it again", &coming)],
    );
    println!();
    demo.checks.claim(
        leaving.changed,
        &format!("after its removal, {IN_A_ROW} connections in a row went to the other pods"),
    );
    demo.checks.claim(coming.changed, "after it was added again, it got connections");
    demo.checks.claim(
        leaving.failures + coming.failures == 0,
        "no connection failed while the endpoints changed",
    );
    Ok(())
}

/// Connections since an edit, with respect to one pod.
#[derive(Default)]
struct Seen {
    connections: u32,
    failures: u32,
    /// When the pod answered last.
    last_hit: Option<Duration>,
    avoided_in_a_row: u32,
    /// Whether the awaited change came in time.
    changed: bool,
}

/// Connects until the change is seen, or [`DEADLINE`] is over.
fn watch(
    demo: &Demo,
    frontend: &Frontend,
    pod: &str,
    enough: impl Fn(&Seen) -> bool,
) -> Result<Seen> {
    let start = Instant::now();
    let mut seen = Seen::default();
    while start.elapsed() < DEADLINE && !seen.changed {
        demo.interrupt.check()?;
        seen.connections += 1;
        match demo.cluster.ask(frontend) {
            Ok(reply) if reply.who == pod => {
                seen.last_hit = Some(start.elapsed());
                seen.avoided_in_a_row = 0;
            }
            Ok(_) => seen.avoided_in_a_row += 1,
            Err(_) => seen.failures += 1,
        }
        seen.changed = enough(&seen);
    }
    Ok(seen)
}
