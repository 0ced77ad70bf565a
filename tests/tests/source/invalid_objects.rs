//! An invalid object costs only itself and is reported once, by name; everything else stays served.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::Path,
};

use crate::common::{
    WebNode, assert_logged_once, eventually, hammer::Hammer, holds, ip, options, series, translated,
};
use serde_json::{Value, json};
use sockline_testbed::{Agent, Protocol, objects};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

/// `ship` is the service that must not be affected.
fn node(webs: usize) -> WebNode {
    let node = WebNode::new(webs);
    node.put_service("ship", SHIP);
    node
}

/// Waits for these problems, then checks that each is in the log once and that `ship` is served.
#[track_caller]
fn assert_told(node: &WebNode, agent: &Agent, problems: &[&str]) {
    node.eventually_problems(problems);
    for problem in problems {
        assert_logged_once(agent, problem);
    }
    node.assert_served(SHIP);
}

/// Starts an agent with these objects in `cart.yaml` and expects these problems.
#[track_caller]
fn with_cart(cart: &[Value], problems: &[&str]) -> (WebNode, Agent) {
    let node = node(1);
    node.put("cart.yaml", cart);
    let agent = node.start_agent();
    assert_told(&node, &agent, problems);
    (node, agent)
}

fn cart() -> Value {
    objects::web_service("cart", CART)
}

fn cart_slice() -> Value {
    objects::slice("cart", &[ip("10.244.1.1")])
}

#[test]
fn a_file_that_is_not_yaml_costs_only_itself() {
    let node = node(1);
    node.put_text("bad.yaml", "kind: Service\nmetadata: {name: [\n");
    let agent = node.start_agent();
    let problem = eventually("a problem", || node.wrong("invalidObjects").pop().ok_or("none yet"));
    assert!(problem.starts_with("file bad.yaml, document 1: does not parse: "), "{problem}");
    assert!(!problem.contains('\n'), "more than one line: {problem}");
    assert_told(&node, &agent, &[&problem]);
}

#[test]
fn a_document_that_does_not_parse_does_not_affect_the_others_of_its_file() {
    let node = node(1);
    let broken = objects::file::yaml(&[cart()])
        + "---\nkind: Service\nmetadata: {name: [\n"
        + &objects::file::yaml(&[cart_slice()]);
    node.put_text("cart.yaml", &broken);
    let _agent = node.start_agent();
    node.eventually_served(CART);
}

#[test]
fn a_file_that_becomes_broken_keeps_its_services() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    node.put_text("cart.yaml", "kind: [\n");
    let kept = "file cart.yaml: is not whole; 2 of its objects are kept as they were";
    eventually("the problem", || {
        let problems = node.wrong("invalidObjects");
        holds(problems.iter().any(|problem| problem == kept), format!("{problems:#?}"))
    });
    assert_logged_once(&agent, kept);
    node.assert_served(CART);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    node.eventually_no_problems();
    node.assert_served(CART);
}

#[test]
fn an_unused_kind_is_reported() {
    with_cart(
        &[json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}})],
        &["file cart.yaml, document 1: kind: Deployment (apps/v1) is not used here; ignored"],
    );
}

#[test]
fn port_0_is_reported_and_the_other_ports_are_served() {
    let mut service = cart();
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "none", "port": 0}));
    let problem = "Service shop/cart: spec.ports[1].port: 0 is not a port number (1 to 65535); the port is left \
                   out";
    let (node, _agent) = with_cart(&[service, cart_slice()], &[problem]);
    node.assert_served(CART);
}

#[test]
fn port_70000_is_reported_and_the_other_ports_are_served() {
    let mut service = cart();
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "high", "port": 70000}));
    let problem = "Service shop/cart: spec.ports[1].port: 70000 is not a port number (1 to 65535); the port \
                   is left out";
    let (node, _agent) = with_cart(&[service, cart_slice()], &[problem]);
    node.assert_served(CART);
}

#[test]
fn the_valid_part_of_an_update_is_applied_at_once() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    let mut service = cart();
    service["metadata"]["annotations"] = json!({"sockline.dev/redirect": "disabled"});
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "high", "port": 70000}));
    node.put("cart.yaml", &[service.clone(), cart_slice()]);
    node.eventually_untouched(CART);
    let problem = "Service shop/cart: spec.ports[1].port: 70000 is not a port number (1 to 65535); the port \
                   is left out";
    assert_told(&node, &agent, &[problem]);
    service["metadata"]["annotations"] = json!({});
    node.put("cart.yaml", &[service, cart_slice()]);
    node.eventually_served(CART);
}

#[test]
fn a_service_whose_only_port_becomes_invalid_stays_as_it_was() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    let mut service = cart();
    service["spec"]["ports"][0]["port"] = json!(0);
    node.put("cart.yaml", &[service, cart_slice()]);
    let problem = "Service shop/cart: spec.ports[0].port: 0 is not a port number (1 to 65535); \
                   what is programmed for it stays";
    let left = "Service shop/cart: spec.ports: no valid port; what is programmed for it stays";
    assert_told(&node, &agent, &[left, problem]);
    node.assert_served(CART);
}

#[test]
fn an_ipv6_address_in_an_ipv4_slice_is_reported_and_the_other_endpoints_are_used() {
    let mut slice = cart_slice();
    let endpoints = slice["endpoints"].as_array_mut().unwrap();
    endpoints.insert(0, json!({"addresses": ["fd00::1"]}));
    let problem = "EndpointSlice shop/cart-1: endpoints[0].addresses[0]: \"fd00::1\": an IPv6 address, \
                   but IPv4 is declared; it is left out";
    let (node, _agent) = with_cart(&[cart(), slice], &[problem]);
    assert_eq!(node.backends("cart", "web"), ["10.244.1.1"]);
}

#[test]
fn a_service_without_ports_is_reported() {
    let mut service = cart();
    service["spec"]["ports"] = json!([]);
    with_cart(
        &[service],
        &["Service shop/cart: spec.ports: no valid port; what is programmed for it stays"],
    );
}

fn created(mut service: Value, time: &str) -> Value {
    service["metadata"]["creationTimestamp"] = json!(time);
    service
}

/// Two services at one address: the one with the later name is the older one.
fn rivals() -> (WebNode, Agent) {
    let node = node(2);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    let new = created(objects::web_service("a-new", CART), "2026-02-02T00:00:00Z");
    let old = created(objects::web_service("z-old", CART), "2026-02-01T00:00:00Z");
    node.put("new.yaml", &[new, objects::slice("a-new", &[second])]);
    node.put("old.yaml", &[old, objects::slice("z-old", &[first])]);
    let agent = node.start_agent();
    (node, agent)
}

#[test]
fn the_older_of_two_services_at_one_address_has_it_and_the_other_is_reported() {
    let (node, agent) = rivals();
    assert_eq!(node.spread(CART, 10).into_keys().collect::<Vec<_>>(), ["web-0"]);
    let problem = "Service shop/a-new: spec.clusterIPs (port \"web\"): IPv4 address 10.96.0.1, \
                   port 80/TCP belongs to port \"web\" of Service shop/z-old (it is older); left out here";
    assert_told(&node, &agent, &[problem]);
}

#[test]
fn when_the_older_service_is_deleted_the_other_takes_over_without_a_gap() {
    let (node, _agent) = rivals();
    let hammer = Hammer::start(&node.client, vec![SocketAddr::new(ip(CART), 80)]);
    hammer.wait_for(20);
    node.remove("old.yaml");
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    hammer.wait_for(20);
    hammer.assert_nothing_failed();
    node.eventually_no_problems();
}

/// An address of z-old, which is unusable, and which a-new claims as well.
#[test]
fn an_unusable_service_keeps_the_addresses_that_others_claim() {
    let (node, mut agent) = rivals();
    let good = fs::read_to_string(node.manifests().join("old.yaml")).unwrap();
    let bad = good.replace("\"port\": 80,", "\"port\": 0,");
    assert_ne!(bad, good);
    let who = || node.spread(CART, 10).into_keys().collect::<Vec<_>>();
    let is_reported = || {
        eventually("the problem of z-old", || {
            let problems = node.wrong("invalidObjects");
            let reported = |problem: &String| {
                problem.contains("z-old") && problem.ends_with("what is programmed for it stays")
            };
            holds(problems.iter().any(reported), format!("{problems:?}"))
        });
    };
    node.put_text("old.yaml", &bad);
    is_reported();
    assert_eq!(who(), ["web-0"]);
    let kept = "the address stays with a service of which an object cannot be used";
    assert_logged_once(&agent, kept);
    // The same holds for the next agent, which never saw a valid z-old.
    agent.stop().unwrap();
    let agent = node.start_agent();
    is_reported();
    assert_eq!(who(), ["web-0"]);
    assert_logged_once(&agent, kept);
    // Once it is valid it has its address; once it is deleted the other one has it.
    node.put_text("old.yaml", &good);
    eventually("z-old to be valid", || {
        let problems = node.wrong("invalidObjects");
        holds(problems.len() == 1 && problems[0].contains("a-new"), format!("{problems:?}"))
    });
    assert_eq!(who(), ["web-0"]);
    node.put_text("old.yaml", &bad);
    is_reported();
    node.remove("old.yaml");
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    node.eventually_no_problems();
}

/// The file is read once after the service was deleted and another one was made.
#[test]
fn a_partly_unreadable_recreated_service_has_nothing_of_the_deleted_one() {
    const ANEW: &str = "10.96.0.3";
    let of = |uid: &str, address: &str| {
        let mut service = objects::web_service("cart", address);
        service["metadata"]["uid"] = json!(uid);
        service
    };
    let mut bad = cart_slice();
    bad["addressType"] = json!("IPv5");
    let node = node(1);
    let stays = "what is programmed for Service shop/cart stays";
    for is_retained_before in [true, false] {
        node.put("cart.yaml", &[of("1", CART), cart_slice()]);
        let mut agent = node.start_agent();
        node.assert_served(CART);
        if is_retained_before {
            node.put("cart.yaml", &[of("1", CART), bad.clone()]);
            eventually("the problem", || {
                let problems = node.wrong("invalidObjects");
                let reported = problems.iter().any(|problem| problem.ends_with(stays));
                holds(reported, format!("{problems:?}"))
            });
            node.assert_served(CART);
        }
        node.put("cart.yaml", &[of("2", ANEW), bad.clone()]);
        node.eventually_untouched(CART);
        // None of its endpoints can be read.
        node.eventually_refused(ANEW);
        node.put("cart.yaml", &[of("2", ANEW), cart_slice()]);
        node.eventually_served(ANEW);
        node.assert_untouched(CART);
        agent.stop().unwrap();
    }
}

/// How many service ports lack an address that a retained port has.
fn waiting_for_address(node: &WebNode) -> u64 {
    node.status()["agent"]["unconfirmedServicePorts"]["waitingForAddress"].as_u64().unwrap()
}

/// A tenant's external IP, before the API server allocates that address to another service.
#[test]
fn a_cluster_ip_belongs_to_its_service_although_an_unreadable_service_has_it_as_external_ip() {
    const TAKEN: &str = "10.96.0.50";
    let node = node(2);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    let mut squatter = cart();
    squatter["spec"]["externalIPs"] = json!([TAKEN]);
    let slice = objects::slice("cart", &[first]);
    let mut bad = squatter.clone();
    bad["spec"]["ports"] = json!([{"port": 0}]);
    node.put("cart.yaml", &[squatter.clone(), slice.clone()]);
    let mut agent = node.start_agent();
    assert_eq!(node.ask(TAKEN).unwrap(), "web-0");
    node.put("cart.yaml", &[bad, slice.clone()]);
    eventually("the problem", || {
        let problems = node.wrong("invalidObjects");
        let stays = "what is programmed for it stays";
        let reported = problems.iter().any(|problem| problem.ends_with(stays));
        holds(reported, format!("{problems:?}"))
    });
    let owner = [objects::web_service("owner", TAKEN), objects::slice("owner", &[second])];
    node.put("owner.yaml", &owner);
    let who = |address: &str| node.ask(address).map_err(|error| error.to_string());
    eventually("the owner of the address to have it", || {
        let who = who(TAKEN)?;
        holds(who == "web-1", who)
    });
    assert_eq!(who(CART).unwrap(), "web-0", "its own address stays");
    assert_eq!(waiting_for_address(&node), 0);
    assert!(node.look(&["check"]).status.success());
    // The same holds for the next agent.
    agent.stop().unwrap();
    let _agent = node.start_agent();
    assert_eq!([TAKEN, CART].map(|address| who(address).unwrap()), ["web-1", "web-0"]);
    // An external IP does not replace retained ports.
    let mut other = objects::web_service("other", "10.96.0.51");
    other["spec"]["externalIPs"] = json!([CART]);
    node.put("other.yaml", &[other, objects::slice("other", &[second])]);
    node.eventually_served("10.96.0.51");
    assert_eq!(who(CART).unwrap(), "web-0");
    eventually("status to tell it", || {
        holds(waiting_for_address(&node) == 1, waiting_for_address(&node))
    });
    node.remove("other.yaml");
    eventually("status to tell it", || {
        holds(waiting_for_address(&node) == 0, waiting_for_address(&node))
    });
    // When the owner is deleted and all objects can be read, it gets the address.
    node.remove("owner.yaml");
    node.eventually_untouched(TAKEN);
    node.put("cart.yaml", &[squatter, slice]);
    node.eventually_served(TAKEN);
}

#[test]
fn a_deleted_service_is_removed_although_an_unusable_slice_of_it_stays() {
    let mut slice = cart_slice();
    slice["addressType"] = json!("IPv5");
    let (service, bad) = ([cart(), cart_slice()], slice);
    let node = node(1);
    node.put("cart.yaml", &service);
    let _agent = node.start_agent();
    node.put("cart.yaml", &[cart(), bad.clone()]);
    eventually("the problem", || {
        let problems = node.wrong("invalidObjects");
        let stays = "what is programmed for Service shop/cart stays";
        let reported = problems.iter().any(|problem| problem.ends_with(stays));
        holds(reported, format!("{problems:?}"))
    });
    node.assert_served(CART);
    node.put("cart.yaml", &[bad]);
    node.eventually_untouched(CART);
    node.assert_served(SHIP);
}

/// 5,000 addresses from 10.245.0.0 on.
fn many() -> Vec<IpAddr> {
    (0..5000u32).map(|number| Ipv4Addr::from(0x0af5_0000 + number).into()).collect()
}

/// As the controller makes them: at most 1,000 endpoints in each slice.
fn slices(addresses: &[IpAddr]) -> Vec<Value> {
    let parts = addresses.chunks(1000).enumerate();
    parts
        .map(|(number, part)| {
            let mut slice = objects::slice("cart", part);
            slice["metadata"]["name"] = json!(format!("cart-{number}"));
            slice
        })
        .collect()
}

#[test]
fn connects_are_spread_over_5000_endpoints() {
    let node = node(1);
    let big = node.pod("big", &many()).unwrap();
    let _server = big.tcp_server(8080).unwrap();
    node.put("cart.yaml", &[cart()]);
    node.put("slices.yaml", &slices(&many()));
    let _agent = node.start_agent();
    let mut capture = node.client.capture().unwrap();
    node.spread(CART, 300);
    let flows = capture.flows().unwrap();
    let to_endpoints = flows.keys().filter(|flow| flow.protocol == Protocol::Tcp);
    let reached: HashSet<IpAddr> = to_endpoints
        .map(|flow| flow.dst)
        .filter(|to| to.port() == 8080)
        .map(|to| to.ip())
        .collect();
    // 300 choices of 5,000 hit 291 different ones on average.
    assert!(reached.len() > 270, "300 connects reached {} endpoints", reached.len());
}

#[test]
fn replacing_5000_endpoints_is_one_step() {
    let node = node(1);
    let (first, second): (Vec<_>, Vec<_>) =
        many().into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let addresses = |half: Vec<(usize, IpAddr)>| -> Vec<IpAddr> {
        half.into_iter().map(|(_, address)| address).collect()
    };
    let (first, second) = (addresses(first), addresses(second));
    let [one, two] = [("one", &first), ("two", &second)]
        .map(|(name, addresses)| node.pod(name, addresses).unwrap());
    let _servers = [&one, &two].map(|pod| pod.tcp_server(8080).unwrap());
    node.put("cart.yaml", &[cart()]);
    node.put("slices.yaml", &slices(&first));
    let _agent = node.start_agent();
    let hammer = Hammer::start(&node.client, vec![SocketAddr::new(ip(CART), 80)]);
    hammer.wait_for(20);
    node.put("slices.yaml", &slices(&second));
    eventually("the second pod to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "two", who)
    });
    // Once the first connect has gone to the new endpoints, none goes to an old one.
    assert_eq!(node.spread(CART, 100).into_keys().collect::<Vec<_>>(), ["two"]);
    hammer.assert_nothing_failed();
}

#[test]
fn a_name_of_253_characters_is_shown_whole() {
    let node = node(1);
    let name = "n".repeat(253);
    let mut slice = cart_slice();
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
    node.put("long.yaml", &[objects::web_service(&name, CART), slice]);
    let agent = node.start_agent();
    node.assert_served(CART);
    assert!(node.services().contains(&format!("shop/{name}")), "{:?}", node.services());
    assert_eq!(series(&agent.metrics().unwrap(), &translated(&name, "TCP")), Some(1.0));
}

#[test]
fn services_stay_while_the_folder_is_missing() {
    let node = node(1);
    let agent = node.start_agent();
    let (folder, away) = (node.manifests(), node.temp().join("away"));
    fs::rename(&folder, &away).unwrap();
    let problem = format!(
        "folder {}: cannot be read (No such file or directory (os error 2)); its 3 objects stay \
         as they were until it is back",
        folder.display()
    );
    assert_told(&node, &agent, &[&problem]);
    fs::rename(&away, &folder).unwrap();
    node.eventually_no_problems();
    node.put_service("cart", CART);
    node.eventually_served(CART);
}

#[test]
fn an_edited_slice_moves_connects() {
    let node = node(2);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    node.put("cart.yaml", &[cart()]);
    node.put("slice.yaml", &[objects::slice("cart", &[first])]);
    let _agent = node.start_agent();
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    // In place, like an editor that does not rename files.
    let edited = objects::file::yaml(&[objects::slice("cart", &[second])]);
    fs::write(node.manifests().join("slice.yaml"), edited).unwrap();
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
}

#[test]
fn a_list_stands_for_its_items() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [cart(), cart_slice()]});
    let (node, _agent) = with_cart(&[list], &[]);
    node.assert_served(CART);
}

/// A folder as kubelet mounts a ConfigMap: files are links through `..data`.
fn publish(folder: &Path, version: &str, text: &str) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("cart.yaml"), text).unwrap();
    let beside = folder.join("..data_tmp");
    symlink(data.file_name().unwrap(), &beside).unwrap();
    fs::rename(&beside, folder.join("..data")).unwrap();
}

#[test]
fn a_new_version_of_a_config_map_is_used() {
    let node = WebNode::new(2);
    let folder = node.temp().join("mounted");
    fs::create_dir(&folder).unwrap();
    let version = |web: usize| {
        let slice = objects::slice("cart", &[node.web_addresses()[web]]);
        objects::file::yaml(&[objects::node(), cart(), slice])
    };
    publish(&folder, "v1", &version(0));
    symlink("..data/cart.yaml", folder.join("cart.yaml")).unwrap();
    let mut mounted = options(&[]);
    mounted.manifests = Some(folder.clone());
    let _agent = node.agent(&mounted).unwrap();
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    publish(&folder, "v2", &version(1));
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    node.eventually_no_problems();
}
