//! Unused slots and backends in the maps are reclaimed on any machine.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use crate::common::{CART, WebNode, eventually, holds, ip, options};
use serde_json::Value;
use sockline_testbed::{AgentOptions, objects};

/// As on a kernel that was booted with `nohz_full=`: the system call exists and returns EINVAL.
fn without_membarrier(command: &mut Command) {
    // SAFETY: the closure makes one system call, which is async-signal-safe.
    unsafe { command.pre_exec(deny_membarrier) };
}

fn deny_membarrier() -> io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut steps = [
        step(LOAD_NUMBER, 0, 0),
        step(JUMP_IF_EQUAL, 1, libc::SYS_membarrier as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
    ];
    let program =
        libc::sock_fprog { len: steps.len() as libc::c_ushort, filter: steps.as_mut_ptr() };
    // SAFETY: the pointers are to locals that outlive the call; the kernel copies the filter.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn entries(status: &Value, map: &str) -> u64 {
    let maps = status["agent"]["maps"].as_array().unwrap();
    let map = maps.iter().find(|entry| entry["name"] == map).unwrap();
    map["entries"].as_u64().unwrap()
}

/// Changes a service's endpoints this often, and waits until each change is in the kernel.
fn change(node: &WebNode, times: usize) {
    for number in 1..=times {
        let endpoints = [ip("10.244.7.1"), ip(&format!("10.244.8.{number}"))];
        let slice = objects::slice("cart", &endpoints);
        node.put("cart.yaml", &[objects::service("cart", CART), slice]);
        let last = endpoints[1].to_string();
        eventually("a change to be in the kernel", || {
            let seen = node.backends("cart", "web");
            holds(seen.contains(&last), format!("{seen:?}"))
        });
    }
}

fn assert_reclaims(node: &WebNode) {
    eventually("slots and backends that are not used any more to be free", || {
        let status = node.status();
        let seen = ["slots", "backends"].map(|map| entries(&status, map));
        holds(seen == expected(node), format!("{seen:?}"))
    });
    let status = node.status();
    assert_eq!(status["agent"]["reclaim"]["state"], "works", "{:#}", status["agent"]["reclaim"]);
    let output = node.look(&["check", "-o", "json"]);
    let results = crate::common::results(&output);
    let reclaim = results.iter().find(|result| result["check"] == "state.reclaim").unwrap();
    assert_eq!(reclaim["state"], "ok", "{reclaim:#}");
}

/// The entries that two endpoints of a service use.
fn expected(node: &WebNode) -> [u64; 2] {
    let ports = objects::service("cart", CART)["spec"]["ports"].as_array().unwrap().len() as u64;
    assert_eq!(node.backends("cart", "web").len(), 2);
    [2 * ports, 2 * ports]
}

#[test]
fn slots_and_backends_are_reclaimed_without_membarrier_as_under_nohz_full() {
    let node = WebNode::new(0);
    change_after_start(&node, &AgentOptions { prepare: Some(without_membarrier), ..options(&[]) });
}

#[test]
fn slots_and_backends_are_reclaimed() {
    let node = WebNode::new(0);
    change_after_start(&node, &options(&[]));
}

fn change_after_start(node: &WebNode, options: &AgentOptions) {
    node.put_service("cart", CART);
    let _agent = node.agent(options).unwrap();
    change(node, 10);
    assert_reclaims(node);
}
