//! Connects to every service address once.

use anyhow::Result;

use crate::{demo::Demo, term};

pub(in crate::demo) fn play(demo: &mut Demo) -> Result<()> {
    let cluster = &demo.cluster;
    let mut rows = Vec::new();
    let (mut right_pod, mut peer_kept, mut came_directly) = (0, 0, 0);
    for frontend in &cluster.shop.frontends {
        demo.interrupt.check()?;
        let mut row = vec![
            frontend.service.clone(),
            frontend.protocol.to_string(),
            frontend.address.to_string(),
        ];
        match cluster.ask(frontend) {
            Ok(reply) => {
                right_pod += usize::from(frontend.pods.contains(&reply.who));
                peer_kept += usize::from(reply.peer == frontend.address);
                let pod = cluster.shop.pod(&reply.who);
                // The pod saw the client's own address and port, so there was no NAT in between.
                let direct = pod.zip(cluster.pods.get(&reply.who)).is_some_and(|(spec, pod)| {
                    spec.ports.iter().any(|(protocol, port)| {
                        *protocol == frontend.protocol
                            && pod.peers(*protocol, *port).contains(&reply.local)
                    })
                });
                came_directly += usize::from(direct);
                row.push(reply.who);
                row.push(pod.map_or_else(String::new, |pod| pod.address.to_string()));
                row.push(pod.map_or_else(String::new, |pod| pod.node.clone()));
                row.push(reply.peer.to_string());
            }
            Err(error) => row.push(error.to_string()),
        }
        rows.push(row);
    }
    term::table(
        &["service", "", "address", "answered by", "pod address", "node", "getpeername"],
        &rows,
    );
    println!();
    let all = rows.len();
    let mut claim =
        |count, text: &str| demo.checks.claim(count == all, &format!("{count} of {all} {text}"));
    claim(right_pod, "answers came from a pod of the service");
    claim(peer_kept, "sockets have the service's address as their peer");
    claim(came_directly, "connections reached the pod from the client's own address and port");
    Ok(())
}
