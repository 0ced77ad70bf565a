//! A pod gets the exclusion label and loses it again, while its containers connect.

use anyhow::Result;
use sockline_testbed::{DEADLINE, Ns, Protocol, objects::Pod, tcp_ask, wait_ok};

use crate::{
    demo::{Demo, shop::Frontend},
    term,
};

const UID: &str = "5b1f7c62-0e0a-4b1f-9a57-2f6d1c9e4d10";
const LABEL: &str = "sockline.dev/redirect: disabled";

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let frontend = demo.cluster.shop.frontend("frontend", Protocol::Tcp)?.clone();
    // As the kubelet: a cgroup for the pod, and one below it for each container.
    let cgroup = demo.cluster.node.pod_cgroup(UID)?;
    let first = cgroup.container(&demo.cluster.client, "first")?;
    demo.cluster.manifests.set_pods(&[pod().object()])?;
    let mut rows = Vec::new();
    let served = |container: &Ns| wait_for(demo, container, &frontend, Result::is_ok);
    let excluded = |container: &Ns| wait_for(demo, container, &frontend, Result::is_err);

    let before = served(&first);
    rows.push(row("before", "first", &before));
    demo.cluster
        .manifests
        .set_pods(&[pod().label("sockline.dev/redirect", "disabled").object()])?;
    let labelled = excluded(&first);
    rows.push(row(&format!("labelled {LABEL}"), "first", &labelled));
    let packets = demo.cluster.client_capture.packets_of(frontend.address.ip())?;
    // No waiting: a new container of an excluded pod is excluded from its first process on.
    let second = cgroup.container(&demo.cluster.client, "second")?;
    let restarted = second.run(|| tcp_ask(frontend.address)).map(|reply| reply.who);
    let restarted = restarted.map_err(|error| error.to_string());
    rows.push(row("a container restarts", "second", &restarted));
    demo.cluster.manifests.set_pods(&[pod().object()])?;
    let after = wait_for(demo, &second, &frontend, Result::is_ok);
    rows.push(row("the label is removed", "second", &after));
    demo.cluster.manifests.set_pods(&[])?;

    term::table(&["the pod", "container", "connect() to the service"], &rows);
    println!("\n  (there is no kube-proxy here, so the service's own address does not answer)\n");
    demo.checks.claim(
        before.is_ok() && labelled.is_err() && packets > 0,
        "a labelled pod's packets go to the service's address, for example to kube-proxy",
    );
    demo.checks.claim(restarted.is_err(), "so do the packets of a container that starts later");
    demo.checks.claim(after.is_ok(), "without the label, Sockline serves the pod again");
    Ok(())
}

fn pod() -> Pod {
    Pod::new("boutique/loadgenerator").uid(UID)
}

/// Asks until the answer, or the error, is the expected one. Returns the last answer.
fn wait_for(
    demo: &Demo,
    container: &Ns,
    frontend: &Frontend,
    is_expected: fn(&Result<String, String>) -> bool,
) -> Result<String, String> {
    let mut last = Err("not asked".to_owned());
    // The caller shows and checks the last answer.
    let _ = wait_ok(DEADLINE, "the pod's connects to change", || {
        demo.interrupt.check().map_err(|error| error.to_string())?;
        let answer = container.run(|| tcp_ask(frontend.address));
        last = answer.map(|reply| reply.who).map_err(|error| error.to_string());
        if is_expected(&last) { Ok(()) } else { Err(format!("{last:?}")) }
    });
    last
}

fn row(pod: &str, container: &str, answer: &Result<String, String>) -> Vec<String> {
    let shown = match answer {
        Ok(who) => format!("{who} answers"),
        Err(error) => format!("not translated: {error}"),
    };
    vec![pod.to_owned(), container.to_owned(), shown]
}
