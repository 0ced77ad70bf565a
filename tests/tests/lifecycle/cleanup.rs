//! `sockline cleanup` leaves the node as it was.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Output,
};

use crate::common::{Stage, error_of, ip};
use sockline_testbed::Agent;

const CART: &str = "10.96.0.1";

fn serving() -> (Stage, Agent) {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let agent = stage.agent();
    (stage, agent)
}

fn cleanup(stage: &Stage) -> Output {
    stage.sockline(&["cleanup", "--bpf-root", stage.node.bpffs().to_str().unwrap()])
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn everything_is_gone_and_connects_are_untouched() {
    let (stage, mut agent) = serving();
    stage.assert_served(CART);
    agent.stop().unwrap();
    let output = cleanup(&stage);
    let folder = stage.node.bpffs().join("sockline");
    assert!(output.status.success(), "{}", error_of(&output));
    assert_eq!(
        said(&output),
        format!("removed {}: 9 programs detached, 23 maps freed\n", folder.display())
    );
    assert!(!folder.exists(), "{} is still there", folder.display());
    stage.assert_untouched(CART);
}

#[test]
fn established_connections_go_on() {
    let (stage, mut agent) = serving();
    let mut open = stage.client.run(|| TcpStream::connect((ip(CART), 80)).unwrap());
    agent.stop().unwrap();
    assert!(cleanup(&stage).status.success());
    open.write_all(b"on").unwrap();
    let mut heard = [0; "web-0\non".len()];
    open.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"web-0\non");
}

#[test]
fn it_refuses_while_an_agent_runs() {
    let (stage, agent) = serving();
    let output = cleanup(&stage);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        error_of(&output),
        format!(
            "error: another sockline agent (process {}) already manages {}; stop it first, or \
             give this one its own --bpf-root\n",
            agent.pid(),
            stage.node.bpffs().join("sockline").display()
        )
    );
    stage.assert_served(CART);
}

#[test]
fn there_is_nothing_left_for_the_second_time() {
    let (stage, mut agent) = serving();
    agent.stop().unwrap();
    assert!(cleanup(&stage).status.success());
    let output = cleanup(&stage);
    assert!(output.status.success(), "{}", error_of(&output));
    let folder = stage.node.bpffs().join("sockline");
    assert_eq!(said(&output), format!("nothing to remove in {}\n", folder.display()));
}

#[test]
fn an_agent_starts_anew_afterwards() {
    let (stage, mut agent) = serving();
    agent.kill().unwrap();
    assert!(cleanup(&stage).status.success());
    let _next = stage.agent();
    stage.assert_served(CART);
}
