//! The network between nodes: each pair of them has a cable, and routes to the other's pods.

use std::{fmt::Write, fs, net::IpAddr, process::Command};

use sockline_testbed::Node;

/// The two ends of every cable. Neighbours are known for good, as those of pods are.
const ENDS: [&str; 2] = ["02:00:00:00:01:01", "02:00:00:00:01:02"];

/// An IPv4 and an IPv6 address.
pub fn node_addresses(node: usize) -> [IpAddr; 2] {
    let node = number(node);
    [
        IpAddr::from([192, 0, 2, 10 + node]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 10 + u16::from(node)]),
    ]
}

/// An IPv4 and an IPv6 address; pod 0 stands for all of the node's.
pub fn pod_addresses(node: usize, pod: u8) -> [IpAddr; 2] {
    let node = number(node);
    [
        IpAddr::from([10, 244, node, pod]),
        IpAddr::from([0xfd00, 0x244, node.into(), 0, 0, 0, 0, pod.into()]),
    ]
}

fn number(node: usize) -> u8 {
    u8::try_from(node).expect("a test has a handful of nodes")
}

/// Connects every node with every other.
pub fn join_all(nodes: &[Node]) {
    for (second, node) in nodes.iter().enumerate() {
        for (first, other) in nodes[..second].iter().enumerate() {
            let batch = format!(
                "link add to{second} address {} type veth peer name to{first} address {} netns {}\n",
                ENDS[0],
                ENDS[1],
                node.outside().path()
            );
            ip(other, &(batch + &routes(first, second, ENDS[1])));
            ip(node, &routes(second, first, ENDS[0]));
            other.outside().wait_for_carrier(&format!("to{second}")).unwrap();
        }
    }
}

/// The commands for a node that make it find another node and its pods.
fn routes(own: usize, other: usize, neighbour: &str) -> String {
    let device = format!("to{other}");
    let mut lines = format!("link set {device} addrgenmode none\nlink set {device} up\n");
    let families = node_addresses(own).into_iter().zip(node_addresses(other));
    for ((source, node), pods) in families.zip(pod_addresses(other, 0)) {
        let length = if pods.is_ipv4() { 24 } else { 64 };
        writeln!(lines, "neigh add {node} lladdr {neighbour} dev {device} nud permanent").unwrap();
        writeln!(lines, "route add {node} dev {device} src {source}").unwrap();
        writeln!(lines, "route add {pods}/{length} via {node} dev {device} src {source} onlink")
            .unwrap();
    }
    lines
}

fn ip(node: &Node, lines: &str) {
    let file = node.temp().join("ip.batch");
    fs::write(&file, lines).unwrap();
    let done = node.outside().output(Command::new("ip").arg("-batch").arg(&file)).unwrap();
    assert!(done.status.success(), "{lines}: {}", String::from_utf8_lossy(&done.stderr));
}
