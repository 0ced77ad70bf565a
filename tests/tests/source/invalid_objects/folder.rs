//! A folder of manifests: it may be missing for a while, and its files may be edited, replaced and large.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::Path,
};

use serde_json::{Value, json};
use sockline_testbed::{Protocol, objects};

use super::{assert_told, cart, cart_slice, node, with_cart};
use crate::common::{CART, WebNode, eventually, hammer::Hammer, holds, ip, options};

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
fn services_stay_while_the_folder_is_missing() {
    let node = node(1);
    let agent = node.start_agent();
    let (folder, away) = (node.manifests(), node.temp().join("away"));
    fs::rename(&folder, &away).unwrap();
    let input_error = format!(
        "folder {}: cannot be read (No such file or directory (os error 2)); its 3 objects stay \
         as they were until it is back",
        folder.display()
    );
    assert_told(&node, &agent, &[&input_error]);
    fs::rename(&away, &folder).unwrap();
    node.eventually_no_input_errors();
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
    node.eventually_no_input_errors();
}
