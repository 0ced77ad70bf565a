//! The testbed itself: its pods behave as the end-to-end tests assume.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
};

use sockline_testbed::{DEADLINE, Node, Pod, Protocol, UdpClient, wait_until};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Two pods with both families, the second a client.
fn two_pods(node: &Node) -> (Pod, Pod) {
    let web = node.pod("web-0", &[ip("10.244.1.1"), ip("fd00:244:1::1")]).unwrap();
    let client = node.pod("client", &[ip("10.244.1.2"), ip("fd00:244:1::2")]).unwrap();
    (web, client)
}

#[test]
fn pods_talk_tcp_over_both_families() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let server = web.tcp_server(8080).unwrap();
    for (address, own) in web.addresses().iter().zip(client.addresses()) {
        let reply = client.tcp_ask(at(*address, 8080)).unwrap();
        assert_eq!(reply.who, "web-0");
        assert_eq!(reply.peer, at(*address, 8080));
        assert_eq!(reply.local.ip(), *own);
        assert_eq!(server.peers().last(), Some(&reply.local));
    }
    assert_eq!(server.hits(), 2);
}

#[test]
fn a_tcp_server_echoes_until_the_client_closes() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let _server = web.tcp_server(8080).unwrap();
    let address = at(web.addresses()[0], 8080);
    let heard = client.run(|| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    });
    assert_eq!(heard, "web-0\nhello");
}

#[test]
fn pods_talk_udp_over_both_families() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let server = web.udp_server(53).unwrap();
    for address in web.addresses().iter().map(|address| at(*address, 53)) {
        let reply = client.udp_ask(address, "one").unwrap();
        assert_eq!((reply.who.as_str(), reply.payload.as_str()), ("web-0", "one"));
        assert_eq!(reply.from, address);
        let reply = client.run(|| UdpClient::connected(address).unwrap().ask("two").unwrap());
        assert_eq!((reply.who.as_str(), reply.payload.as_str()), ("web-0", "two"));
    }
    assert_eq!(server.hits(), 4);
}

#[test]
fn the_host_reaches_pods_and_pods_reach_the_host() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let _in_pod = web.tcp_server(8080).unwrap();
    let _on_host = node.tcp_server(9090).unwrap();
    for (pod, host) in web.addresses().iter().zip(node.addresses()) {
        let from_host = node.tcp_ask(at(*pod, 8080)).unwrap();
        assert_eq!((from_host.who.as_str(), from_host.local.ip()), ("web-0", *host));
        assert_eq!(client.tcp_ask(at(*host, 9090)).unwrap().who, "node");
    }
}

#[test]
fn a_port_nobody_listens_on_refuses_and_an_unknown_address_is_unreachable() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let refused = client.tcp_ask(at(web.addresses()[0], 1)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc_errno::ECONNREFUSED), "{refused}");
    let unreachable = client.tcp_ask("10.96.0.1:443".parse().unwrap()).unwrap_err();
    assert_eq!(unreachable.raw_os_error(), Some(libc_errno::ENETUNREACH), "{unreachable}");
}

/// The two numbers this file compares with; they are the same on every architecture we run on.
mod libc_errno {
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ECONNREFUSED: i32 = 111;
}

#[test]
fn only_threads_and_children_in_pods_are_in_the_nodes_cgroup() {
    let node = Node::new().unwrap();
    let (web, _client) = two_pods(&node);
    let name = node.cgroup().file_name().unwrap().to_str().unwrap().to_owned();
    let own = |path: &str| {
        let table = fs::read_to_string(path).unwrap();
        table.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    let cgroup_of_child = |ns: &sockline_testbed::Ns| {
        let output = ns.output(Command::new("cat").arg("/proc/self/cgroup")).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for ns in [&*web, &*node] {
        let seen = ns.run(|| own("/proc/thread-self/cgroup"));
        assert!(seen.ends_with(&format!("/{name}")), "{}: {seen}", ns.name());
        assert!(cgroup_of_child(ns).contains(&format!("/{name}\n")), "{}", ns.name());
    }
    let outside = node.outside().run(|| own("/proc/thread-self/cgroup"));
    assert!(!outside.contains(&name), "{outside}");
    assert!(!cgroup_of_child(node.outside()).contains(&name));
    assert!(!own("/proc/thread-self/cgroup").contains(&name));
}

#[test]
fn nodes_with_the_same_addresses_run_in_parallel() {
    let (one, two) = (Node::new().unwrap(), Node::new().unwrap());
    assert_ne!(one.cgroup(), two.cgroup());
    assert_ne!(one.bpffs(), two.bpffs());
    let first = one.pod("first", &[ip("10.244.1.1")]).unwrap();
    let second = two.pod("second", &[ip("10.244.1.1")]).unwrap();
    let _servers = (first.tcp_server(80).unwrap(), second.tcp_server(80).unwrap());
    let address = "10.244.1.1:80".parse().unwrap();
    assert_eq!(one.tcp_ask(address).unwrap().who, "first");
    assert_eq!(two.tcp_ask(address).unwrap().who, "second");
}

#[test]
fn packets_are_counted_by_flow() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let _server = web.udp_server(53).unwrap();
    let mut capture = client.capture().unwrap();
    for address in web.addresses() {
        for _ in 0..3 {
            client.udp_ask(at(*address, 53), "x").unwrap();
        }
        assert_eq!(capture.packets_of(*address).unwrap(), 6, "three questions, three answers");
        let asked = capture
            .packets(|flow| flow.dst == at(*address, 53) && flow.protocol == Protocol::Udp)
            .unwrap();
        assert_eq!(asked, 3);
    }
    assert_eq!(capture.packets_of(ip("10.96.0.10")).unwrap(), 0);
}

#[test]
fn packets_over_loopback_are_counted_once() {
    let node = Node::new().unwrap();
    let web = node.pod("web-0", &[ip("10.244.1.1")]).unwrap();
    let _server = web.udp_server(53).unwrap();
    let mut capture = web.capture().unwrap();
    web.udp_ask("10.244.1.1:53".parse().unwrap(), "x").unwrap();
    assert_eq!(capture.packets(|flow| flow.dst.port() == 53).unwrap(), 1);
}

#[test]
fn a_namespace_without_translation_tracks_no_connections() {
    let node = Node::new().unwrap();
    let (web, client) = two_pods(&node);
    let _server = web.tcp_server(80).unwrap();
    client.tcp_ask(at(web.addresses()[0], 80)).unwrap();
    assert!(client.conntrack_entries().is_none_or(|count| count == 0));
}

#[test]
fn everything_is_gone_after_drop_and_after_a_panic() {
    for panics in [false, true] {
        let node = Node::new().unwrap();
        let (web, client) = two_pods(&node);
        let server = web.tcp_server(80).unwrap();
        // Left open on purpose: the server must not wait for its client.
        let address = at(web.addresses()[0], 80);
        let open = client.run(|| TcpStream::connect(address).unwrap());
        let (cgroup, bpffs) = (node.cgroup().to_path_buf(), node.bpffs().to_path_buf());
        let temp = node.temp().to_path_buf();
        let namespaces = [node.inode().unwrap(), web.inode().unwrap(), client.inode().unwrap()];
        assert!(namespaces.iter().all(|inode| namespace_in_use(*inode)));
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _owned = (open, server, web, client, node);
            assert!(!panics, "wanted");
        }));
        assert_eq!(end.is_err(), panics);
        for path in [&cgroup, &bpffs, &temp] {
            assert!(!path.exists(), "{} is still there", path.display());
        }
        for inode in namespaces {
            wait_until(DEADLINE, "no thread to be in the namespace", || {
                (!namespace_in_use(inode)).then_some(())
            })
            .unwrap();
        }
    }
}

/// Whether a thread of this process is in a network namespace, or a descriptor holds it.
fn namespace_in_use(inode: u64) -> bool {
    let is_it = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| meta.ino() == inode)
            && fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("net:"))
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    tasks.map(|task| task.path().join("ns/net")).any(|path| is_it(&path))
        || descriptors.map(|fd| fd.path()).any(|path| is_it(&path))
}

#[test]
fn a_panic_inside_a_pod_reaches_the_test() {
    let node = Node::new().unwrap();
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.run(|| panic!("from inside"));
    }));
    assert_eq!(end.unwrap_err().downcast_ref::<&str>(), Some(&"from inside"));
}

#[test]
fn the_next_node_removes_what_a_killed_process_left() {
    let node = Node::new().unwrap();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let name = format!("sockline-tests-{}-0", ended.id());
    let left = [node.bpffs(), node.temp()].map(|own| own.parent().unwrap().join(&name));
    for folder in &left {
        fs::create_dir(folder).unwrap();
    }
    let _next = Node::new().unwrap();
    for folder in &left {
        assert!(!folder.exists(), "{} is still there", folder.display());
    }
}
