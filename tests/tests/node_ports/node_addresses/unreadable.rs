//! An agent that cannot read the node's interfaces.

use std::{io, os::unix::process::CommandExt as _};

use nix::sys::resource::{Resource, rlim_t};
use sockline_testbed::{AgentOptions, Cluster, DEADLINE, Service, WebCluster, wait_ok};

use super::{NODE_PORT, NodeWithPodAndClient, OWN, at, web};

/// Sets how many files the agent may have open.
fn limit_files(pid: u32, files: rlim_t) -> rlim_t {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // The hard limit stays, to be able to go back.
    let pid = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: plain structures of this function.
    let read =
        unsafe { libc::prlimit(pid, Resource::RLIMIT_NOFILE as _, std::ptr::null(), &raw mut old) };
    assert_eq!(read, 0, "{}", io::Error::last_os_error());
    let new = libc::rlimit { rlim_cur: files, rlim_max: old.rlim_max };
    // SAFETY: as above.
    let set = unsafe {
        libc::prlimit(pid, Resource::RLIMIT_NOFILE as _, &raw const new, std::ptr::null_mut())
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    old.rlim_cur
}

#[test]
fn node_ports_stay_while_the_interfaces_cannot_be_read() {
    const TOLD: &str = "cannot read the addresses of the node's interfaces";
    let setup = NodeWithPodAndClient::with(&[], []);
    let agent = setup.cluster.agent();
    // The agent can open no files any more, and so no netlink socket.
    let before = limit_files(agent.pid(), 1);
    let reported = || agent.log().matches(TOLD).count();
    wait_ok(DEADLINE, "the agent to say that it cannot read them", || {
        if reported() > 0 { Ok(()) } else { Err("it does not") }
    })
    .unwrap();
    setup.assert_served(OWN, NODE_PORT);
    limit_files(agent.pid(), before);
    wait_ok(DEADLINE, "the agent to read them again", || {
        if agent.log().contains("resolved: cannot read the addresses") {
            Ok(())
        } else {
            Err("it does not")
        }
    })
    .unwrap();
    assert_eq!(reported(), 2, "once, and once that it is resolved: {}", agent.log());
    setup.assert_served(OWN, NODE_PORT);
}

/// The agent gets no netlink socket, as under a strict seccomp profile.
fn without_netlink(options: &mut AgentOptions) {
    // SAFETY: the closure makes one system call, which is async-signal-safe.
    options.prepare = Some(|command| unsafe {
        command.pre_exec(deny_route_netlink);
    });
}

fn deny_route_netlink() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Offsets in `struct seccomp_data`; those of arguments are of the low halves on little-endian machines.
    const FAMILY: u32 = 16;
    const PROTOCOL: u32 = 32;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD, 0, 0),
        step(JUMP_IF_EQUAL, 5, libc::SYS_socket as u32),
        step(LOAD, 0, FAMILY),
        step(JUMP_IF_EQUAL, 3, libc::AF_NETLINK as u32),
        step(LOAD, 0, PROTOCOL),
        step(JUMP_IF_EQUAL, 1, libc::NETLINK_ROUTE as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: steps.len() as libc::c_ushort, filter: steps.as_mut_ptr() };
    // SAFETY: the pointers are to locals that outlive the call; the kernel copies the filter.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn an_agent_that_cannot_read_the_interfaces_serves_cluster_ips_and_keeps_node_ports() {
    const TOLD: &str = "cannot read the addresses of the node's interfaces";
    let mut setup = NodeWithPodAndClient::with(&[], []);
    setup.assert_served(OWN, NODE_PORT);
    setup.cluster.restart(without_netlink).unwrap();
    setup.assert_served("10.96.0.1", 80);
    setup.assert_served(OWN, NODE_PORT);
    let other = Service::new("other").ip("10.96.0.2").tcp(81).to(WebCluster::PORT);
    setup.cluster.apply([other.endpoints([&setup.web])]).unwrap();
    setup.assert_served("10.96.0.2", 81);
    setup.assert_served(OWN, NODE_PORT);
    assert_eq!(setup.cluster.agent().log().matches(TOLD).count(), 1, "once in the log");
    let status = setup.cluster.status().unwrap();
    let error = status["agent"]["nodeAddressesError"].as_str().unwrap_or_default();
    assert!(error.contains(TOLD), "{error:?}");
}

#[test]
fn an_agent_that_cannot_read_the_interfaces_starts_on_a_new_node() {
    let mut cluster = Cluster::new().unwrap();
    let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
    let _server = web.tcp_server(WebCluster::PORT).unwrap();
    cluster.restart(without_netlink).unwrap();
    cluster.apply([self::web().endpoints([&web])]).unwrap();
    assert_eq!(client.tcp_ask(at("10.96.0.1", 80)).unwrap().who, "web");
}
