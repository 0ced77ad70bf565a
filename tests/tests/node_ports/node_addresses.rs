//! Which addresses are the node's own, so that NodePorts are at them.

use std::{
    fmt::Write as _,
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    process::Command,
    time::Duration,
};

use nix::sys::resource::{Resource, rlim_t};
use serde_json::{Value, json};
use sockline_testbed::{AgentOptions, Cluster, Node, Pod, Service, TcpServer, WebCluster, wait_ok};

const NODE_PORT: u16 = 30_080;
const OWN: &str = "192.0.2.10";

/// How long the agent may take to notice a change of the interfaces, which it reads every five seconds.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn web() -> Service {
    Service::new("web").ip("10.96.0.1").tcp(80).to(WebCluster::PORT).node_port(NODE_PORT)
}

/// A pod that serves `web`, a client pod, and an agent with these arguments.
struct NodeWithPodAndClient {
    _server: TcpServer,
    web: Pod,
    client: Pod,
    cluster: Cluster,
}

impl NodeWithPodAndClient {
    fn with(args: &[&str], others: impl IntoIterator<Item = Service>) -> Self {
        Self::prepared(args, others, |_| {}, vec![])
    }

    /// As [`Self::with`], with devices and objects that exist before the agent starts.
    fn prepared(
        args: &[&str],
        others: impl IntoIterator<Item = Service>,
        prepare: impl FnOnce(&Node),
        objects: Vec<Value>,
    ) -> Self {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        prepare(cluster.node());
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        let server = web.tcp_server(WebCluster::PORT).unwrap();
        let mut this = Self { _server: server, web, client, cluster };
        let services: Vec<Service> =
            others.into_iter().chain([self::web()]).map(|s| s.endpoints([&this.web])).collect();
        this.cluster.set_objects(objects);
        this.cluster.apply(services).unwrap();
        this
    }

    fn node(&self) -> &Node {
        self.cluster.node()
    }

    #[track_caller]
    fn assert_served(&self, ip: &str, port: u16) {
        let reply = self.client.tcp_ask(at(ip, port)).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", at(ip, port)));
    }

    /// Nothing listens at the node's own addresses, and no other address has a route.
    #[track_caller]
    fn assert_not_served(&self, ip: &str, port: u16) {
        let answer = self.client.tcp_ask(at(ip, port));
        let error = answer.expect_err("it is no address of the node");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }

    /// The pod that answers on the node's loopback.
    fn on_loopback(&self) -> io::Result<String> {
        self.node().tcp_ask(at("127.0.0.1", NODE_PORT)).map(|reply| reply.who)
    }

    /// The number of full syncs, and of service addresses in the kernel.
    fn syncs_and_frontends(&self) -> (f64, f64) {
        syncs_and_frontends(&self.cluster)
    }
}

fn syncs_and_frontends(cluster: &Cluster) -> (f64, f64) {
    let metrics = cluster.metrics().unwrap();
    let everything = metrics.sum("sockline_syncs_total", &[("scope", "full")]);
    (everything, metrics.sum("sockline_frontends", &[]))
}

/// Runs `ip` with these lines where the agent runs.
fn ip(node: &Node, lines: &str) {
    let file = node.temp().join("addresses.batch");
    fs::write(&file, lines).unwrap();
    let done = node.outside().output(Command::new("ip").arg("-batch").arg(&file)).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A device like kube-proxy's `kube-ipvs0`, which has no traffic. The kernel of the tests may have no `dummy`
/// devices.
fn service_device(name: &str, addresses: impl IntoIterator<Item = Ipv4Addr>) -> String {
    let mut lines = format!("link add {name} type bridge\n");
    for address in addresses {
        writeln!(lines, "addr add {address}/32 dev {name}").unwrap();
    }
    lines
}

fn service_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_1000 + number)
}

/// A service with one endpoint, every hundredth with a NodePort.
fn numbered(number: u32, endpoint: &str) -> Service {
    let service = Service::new(&format!("svc-{number}")).ip(&service_ip(number).to_string());
    let service = service.tcp(80).to(WebCluster::PORT);
    let service = match u16::try_from(number / 100) {
        Ok(hundred) if number.is_multiple_of(100) => service.node_port(30_000 + hundred),
        _ => service,
    };
    let address = endpoint.parse().unwrap();
    service.endpoints([sockline_testbed::Endpoint::at(&[address])])
}

/// kube-proxy in IPVS mode puts every service address on `kube-ipvs0`.
#[test]
fn with_5000_services_on_an_ipvs_device_frontends_and_changes_are_what_they_are_without_it() {
    const SERVICES: u32 = 5_000;
    const NODE_PORTS: u32 = SERVICES / 100;
    let mut cluster = Cluster::new().unwrap();
    ip(cluster.node(), &service_device("kube-ipvs0", (0..SERVICES).map(service_ip)));
    cluster.apply((0..SERVICES).map(|n| numbered(n, "10.244.0.1"))).unwrap();
    let (before, frontends) = syncs_and_frontends(&cluster);
    // A NodePort is at the node's only address of the family, and on loopback.
    assert_eq!(frontends, f64::from(SERVICES + 2 * NODE_PORTS));
    cluster.apply([numbered(7, "10.244.0.2")]).unwrap();
    assert_eq!(syncs_and_frontends(&cluster), (before, frontends), "(full syncs, frontends)");
}

#[test]
fn addresses_of_nodelocal_dns_are_no_node_addresses() {
    let device = service_device("nodelocaldns", [Ipv4Addr::new(198, 51, 100, 53)]);
    let setup = NodeWithPodAndClient::prepared(&[], [], |node| ip(node, &device), vec![]);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("198.51.100.53", NODE_PORT);
}

/// The label is what `getifaddrs` calls the device's name.
#[test]
fn an_address_with_a_label_belongs_to_its_device() {
    let device = "link add kube-ipvs0 type bridge\n\
                  addr add 198.51.100.53/32 dev kube-ipvs0 label kube-ipvs0:x\n";
    let setup = NodeWithPodAndClient::prepared(&[], [], |node| ip(node, device), vec![]);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("198.51.100.53", NODE_PORT);
}

#[test]
fn an_address_that_a_service_claims_is_no_node_address_on_any_device() {
    let cluster_ip = "10.96.0.1".parse().unwrap();
    let load_balancer = "203.0.113.7".parse().unwrap();
    let plain = "203.0.113.8".parse().unwrap();
    let device = service_device("services", [cluster_ip, load_balancer, plain]);
    let other = Service::new("other").ip("10.96.0.2").tcp(81).to(WebCluster::PORT);
    let other = other.load_balancer_vip("203.0.113.7");
    let mut setup = NodeWithPodAndClient::prepared(&[], [other], |node| ip(node, &device), vec![]);
    setup.assert_not_served("10.96.0.1", NODE_PORT);
    setup.assert_not_served("203.0.113.7", NODE_PORT);
    setup.assert_served("203.0.113.8", NODE_PORT);
    setup.assert_served("203.0.113.7", 81);
    // A service that claims an address removes it from the node addresses; without the service it is one
    // again.
    let later = || Service::new("later").ip("10.96.0.3").tcp(80).to(WebCluster::PORT);
    setup.cluster.apply([later().load_balancer_vip("203.0.113.8")]).unwrap();
    setup.assert_not_served("203.0.113.8", NODE_PORT);
    setup.cluster.apply([later()]).unwrap();
    setup.assert_served("203.0.113.8", NODE_PORT);
}

/// The node's Node object, with an address of each type.
fn own_node(internal: &str, external: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a"},
        "status": {"addresses": [
            {"type": "Hostname", "address": "node-a"},
            {"type": "ExternalIP", "address": external},
            {"type": "InternalIP", "address": internal},
        ]},
    })
}

/// K3s ServiceLB publishes the nodes' own addresses as those of every load balancer; with keepalived
/// they are external IPs.
fn at_the_node(endpoint: &str) -> Service {
    let service = Service::new("at-node").ip("10.96.0.9").external_ip(OWN).tcp(80);
    let address = endpoint.parse().unwrap();
    service.load_balancer_vip("192.0.2.20").endpoints([sockline_testbed::Endpoint::at(&[address])])
}

#[test]
fn a_service_with_the_nodes_addresses_keeps_node_ports_and_causes_no_full_syncs() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let objects = vec![own_node(OWN, "192.0.2.20")];
    let mut setup = NodeWithPodAndClient::prepared(&[], [], extra, objects);
    setup.cluster.apply([at_the_node("10.244.9.1")]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_served("192.0.2.20", NODE_PORT);
    // Of `web` a cluster IP, two addresses and loopback; of the other its three. The gauge comes later
    // than the change.
    let before = wait_ok(NOTICED_WITHIN, "the gauge of frontends", || {
        let (syncs, frontends) = setup.syncs_and_frontends();
        if (frontends - 7.0).abs() < 0.5 { Ok((syncs, frontends)) } else { Err(frontends) }
    });
    let before = before.unwrap();
    for change in 2..6 {
        setup.cluster.apply([at_the_node(&format!("10.244.9.{change}"))]).unwrap();
    }
    assert_eq!(setup.syncs_and_frontends(), before, "(full syncs, frontends)");
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_served("192.0.2.20", NODE_PORT);
    // The service itself is served there.
    let web = setup.web.addresses()[0].to_string();
    let at_node = Service::new("at-node").ip("10.96.0.9").external_ip(OWN).tcp(WebCluster::PORT);
    let here = sockline_testbed::Endpoint::at(&[web.parse().unwrap()]);
    setup.cluster.apply([at_node.endpoints([here])]).unwrap();
    setup.assert_served(OWN, WebCluster::PORT);
}

/// The address belongs to the node, and so does the node port that the API server allocated.
#[test]
fn an_external_ip_takes_no_node_port_of_another_service() {
    let mut setup = NodeWithPodAndClient::with(&[], []);
    let claimant = || {
        let claimant =
            Service::new("claimant").ip("10.96.0.66").external_ip(OWN).external_ip("198.51.100.1");
        claimant.tcp(NODE_PORT)
    };
    setup.cluster.apply([claimant()]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    assert_eq!(
        setup.client.tcp_ask(at("198.51.100.1", NODE_PORT)).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "it has no endpoints, and its other address"
    );
    let (before, _) = setup.syncs_and_frontends();
    setup.cluster.apply([claimant().endpoints([&setup.client])]).unwrap();
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
    setup.assert_served(OWN, NODE_PORT);
    // Without the NodePort, the address is free; with it, it is not.
    setup.cluster.remove("web").unwrap();
    setup.cluster.apply([claimant().to(WebCluster::PORT).endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    setup.cluster.apply([claimant()]).unwrap();
    setup.assert_not_served(OWN, NODE_PORT);
    setup.cluster.apply([web().endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
}

/// The NodePort is reserved although the service is not in the kernel, because it did not fit.
#[test]
fn the_node_port_of_a_deleted_service_that_did_not_fit_is_free() {
    const OTHER: u16 = 30_090;
    let big = Service::new("big").ip("10.96.0.8").tcp(80).node_port(OTHER);
    // `web` takes three.
    let mut setup = NodeWithPodAndClient::with(&["--max-frontends", "5"], []);
    setup.cluster.apply([big]).unwrap();
    let unfit = wait_ok(NOTICED_WITHIN, "the service not to fit", || {
        let metrics = setup.cluster.metrics().unwrap();
        let unfit = metrics.sum("sockline_service_ports_out_of_sync", &[]);
        if (unfit - 1.0).abs() < 0.5 { Ok(()) } else { Err(unfit) }
    });
    unfit.unwrap();
    setup.cluster.remove("big").unwrap();
    let (before, _) = setup.syncs_and_frontends();
    let heir =
        Service::new("heir").ip("10.96.0.9").external_ip(OWN).tcp(OTHER).to(WebCluster::PORT);
    setup.cluster.apply([heir.endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, OTHER);
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
}

#[test]
fn with_primary_node_ports_are_at_the_first_internal_address() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let objects = vec![own_node(OWN, "192.0.2.20")];
    let setup =
        NodeWithPodAndClient::prepared(&["--nodeport-addresses", "primary"], [], extra, objects);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("192.0.2.20", NODE_PORT);
    let seen = setup.on_loopback().map_err(|error| error.kind());
    assert_eq!(seen, Err(ErrorKind::ConnectionRefused), "loopback is not the primary address");
}

#[test]
fn node_ports_are_on_loopback_where_a_range_has_it() {
    let args = ["--nodeport-addresses", "primary,127.0.0.0/8"];
    let setup =
        NodeWithPodAndClient::prepared(&args, [], |_| {}, vec![own_node(OWN, "192.0.2.20")]);
    setup.assert_served(OWN, NODE_PORT);
    if setup.cluster.features().unwrap().netns_cookie {
        assert_eq!(setup.on_loopback().unwrap(), "web");
    }
}

/// Also without loopback, a deleted NodePort frees its addresses.
#[test]
fn with_primary_an_external_ip_gets_no_node_port_of_another_service_until_that_is_deleted() {
    let args = ["--nodeport-addresses", "primary"];
    let mut setup =
        NodeWithPodAndClient::prepared(&args, [], |_| {}, vec![own_node(OWN, "192.0.2.20")]);
    let claimant = Service::new("claimant").ip("10.96.0.66").external_ip(OWN).tcp(NODE_PORT);
    let claimant = claimant.to(WebCluster::PORT).endpoints([&setup.web]);
    setup.cluster.apply([claimant]).unwrap();
    let (before, _) = setup.syncs_and_frontends();
    setup.cluster.apply([web().endpoints([&setup.client])]).unwrap();
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
    setup.cluster.remove("web").unwrap();
    setup.assert_served(OWN, NODE_PORT);
}

#[test]
fn with_cidrs_node_ports_are_at_the_addresses_in_them() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let args = ["--nodeport-addresses", "192.0.2.16/28"];
    let setup = NodeWithPodAndClient::prepared(&args, [], extra, vec![own_node(OWN, "192.0.2.20")]);
    setup.assert_served("192.0.2.20", NODE_PORT);
    setup.assert_not_served(OWN, NODE_PORT);
}

#[test]
fn an_invalid_address_range_is_a_clear_error() {
    for (value, reported) in [("192.0.2.0/33", "192.0.2.0/33"), ("primary,eth0", "eth0")] {
        let node = Node::new().unwrap();
        let mut agent = node
            .spawn_agent(&AgentOptions {
                args: vec!["--nodeport-addresses".to_owned(), value.to_owned()],
                ..Default::default()
            })
            .unwrap();
        let status = wait_ok(NOTICED_WITHIN, "the agent to end", || {
            agent.try_wait().unwrap().ok_or("it runs")
        });
        assert_eq!(status.unwrap().code(), Some(2), "{}", agent.log());
        let log = agent.log();
        assert!(log.contains("--nodeport-addresses") && log.contains(reported), "{log}");
        assert!(log.contains("primary"), "what it could be: {log}");
    }
}

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
    wait_ok(NOTICED_WITHIN, "the agent to say that it cannot read them", || {
        if reported() > 0 { Ok(()) } else { Err("it does not") }
    })
    .unwrap();
    setup.assert_served(OWN, NODE_PORT);
    limit_files(agent.pid(), before);
    wait_ok(NOTICED_WITHIN, "the agent to read them again", || {
        if agent.log().contains("solved: cannot read the addresses") {
            Ok(())
        } else {
            Err("it does not")
        }
    })
    .unwrap();
    assert_eq!(reported(), 2, "once, and once that it is solved: {}", agent.log());
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
