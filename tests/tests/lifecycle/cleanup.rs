//! `sockline cleanup` removes everything that an agent left on the node.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Output,
};

use crate::common::{CART, WebNode, error_of, ip};

fn cleanup(node: &WebNode) -> Output {
    node.sockline(&["cleanup", "--bpf-root", node.bpffs().to_str().unwrap()])
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn cleanup_removes_everything_and_connects_are_not_translated() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    node.assert_served(CART);
    agent.stop().unwrap();
    let output = cleanup(&node);
    let folder = node.bpffs().join("sockline");
    assert!(output.status.success(), "{}", error_of(&output));
    assert_eq!(
        said(&output),
        format!("removed {}: 9 programs detached, 32 maps freed\n", folder.display())
    );
    assert!(!folder.exists(), "{} is still there", folder.display());
    node.assert_untouched(CART);
}

#[test]
fn established_connections_survive_cleanup() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let mut open = node.client.run(|| TcpStream::connect((ip(CART), 80)).unwrap());
    agent.stop().unwrap();
    assert!(cleanup(&node).status.success());
    open.write_all(b"on").unwrap();
    let mut heard = [0; "web-0\non".len()];
    open.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"web-0\non");
}

#[test]
fn cleanup_is_refused_while_an_agent_runs() {
    let (node, agent) = WebNode::serving(1, &[]);
    let output = cleanup(&node);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        error_of(&output),
        format!(
            "error: another sockline agent (process {}) already manages {}; stop it first, or \
             give this one its own --bpf-root\n",
            agent.pid(),
            node.bpffs().join("sockline").display()
        )
    );
    node.assert_served(CART);
}

#[test]
fn a_second_cleanup_finds_nothing() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.stop().unwrap();
    assert!(cleanup(&node).status.success());
    let output = cleanup(&node);
    assert!(output.status.success(), "{}", error_of(&output));
    let folder = node.bpffs().join("sockline");
    assert_eq!(said(&output), format!("nothing to remove in {}\n", folder.display()));
}

#[test]
fn an_agent_starts_again_after_cleanup() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.kill().unwrap();
    assert!(cleanup(&node).status.success());
    let _next = node.start_agent();
    node.assert_served(CART);
}
