//! `--keep`: keeps the cluster running, and prints commands to try on it.

use super::Demo;
use crate::term;

pub(super) fn wait(demo: &Demo) {
    let cluster = &demo.cluster;
    let Some(agent) = &cluster.agent else { return };
    let binary = agent.binary().display();
    let bpf_root = format!("--bpf-root {}", cluster.node.bpffs().display());
    let admin_socket = format!("--admin-socket {}", agent.admin_socket().display());
    let cgroup = cluster.node.cgroup();
    let base = cgroup.parent().unwrap_or(cgroup);
    // A thread can enter its node's cgroup only from the cgroup of its process.
    let shell = format!(
        "sh -c 'echo $$ > {base}/cgroup.procs && echo $$ > {node}/cgroup.threads && \
         exec nsenter --net={net} bash'",
        base = base.display(),
        node = cgroup.display(),
        net = cluster.client.path(),
    );
    let example = &cluster.shop.frontends.first();
    let dial = example.map_or_else(String::new, |frontend| {
        let (ip, port) = (frontend.address.ip(), frontend.address.port());
        format!("exec 3<>/dev/tcp/{ip}/{port}; head -n 1 <&3; exec 3>&-")
    });
    let listen = agent.listen();
    let outside = cluster.node.outside().path();

    println!(
        "\n{}\n",
        term::paint(term::BOLD, "The demo keeps running. In another terminal, as root:")
    );
    for (what, command) in [
        ("a shell inside the client pod", shell.as_str()),
        ("in that shell: which pod answers for a service", &dial),
        ("the agent's status", &format!("{binary} status {bpf_root} {admin_socket}")),
        ("services and their endpoints", &format!("{binary} services {bpf_root}")),
        ("backends, and how often each was chosen", &format!("{binary} backends {bpf_root}")),
        ("metrics", &format!("nsenter --net={outside} curl -s http://{listen}/metrics")),
        (
            "the manifests: edit them, and the kernel follows",
            &format!("ls {}", cluster.manifests.dir().display()),
        ),
        ("the agent's log", &format!("tail -f {}", agent.log_path().display())),
    ] {
        println!("  {}\n    {command}", term::paint(term::DIM, &format!("# {what}")));
    }
    println!("\nEnter or Ctrl-C ends the demo and removes everything.");
    demo.interrupt.wait_for_enter();
}
