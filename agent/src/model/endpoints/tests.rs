use super::{
    TrafficPolicy::{Cluster, Local},
    *,
};
use crate::model::testing::{endpoint, endpoint_port, slice, texts};

const HERE: ThisNode<'_> = ThisNode { name: "here", zone: Some("zone-1") };

fn chosen(endpoints: &[Endpoint], node: ThisNode<'_>, policy: TrafficPolicy) -> Vec<String> {
    let candidates: Vec<_> =
        endpoints.iter().map(|endpoint| Candidate { endpoint, port: 1 }).collect();
    texts(&super::chosen(policy, &candidates, node))
        .iter()
        .map(|text| text.replace(":1", ""))
        .collect()
}

/// `a` to `e` are 10.0.0.10 to 10.0.0.14.
fn letters(addresses: &[String]) -> String {
    let number = |address: &String| address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    addresses.iter().map(|address| char::from(b'a' + number(address))).collect()
}

fn e(letter: char) -> Endpoint {
    endpoint(&format!("10.0.0.{}", letter as u8 - b'a'))
}

#[test]
fn cluster_policy_uses_what_kube_proxy_uses() {
    let cases: &[(&str, Vec<Endpoint>, &str)] = &[
        ("nothing there", vec![], ""),
        ("all ready ones", vec![e('a'), e('b').on("here")], "ab"),
        ("unready ones are not used", vec![e('a'), e('b').unready()], "a"),
        ("only unready ones", vec![e('a').unready()], ""),
        ("draining ones rest while one is ready", vec![e('a'), e('b').draining()], "a"),
        ("draining ones serve when none is ready", vec![e('a').draining(), e('b').unready()], "a"),
        (
            "a terminating one that no longer serves is not used",
            vec![Endpoint { serving: false, ..e('a').draining() }],
            "",
        ),
        (
            "serving but neither ready nor terminating is not used",
            vec![Endpoint { serving: true, ..e('a').unready() }],
            "",
        ),
        (
            "zone hints for this zone narrow",
            vec![e('a').for_zones(&["zone-1"]), e('b').for_zones(&["zone-2"])],
            "a",
        ),
        (
            "an endpoint may be hinted for several zones",
            vec![e('a').for_zones(&["zone-2", "zone-1"]), e('b').for_zones(&["zone-1"])],
            "ab",
        ),
        (
            "zone hints are ignored when a ready endpoint has none",
            vec![e('a').for_zones(&["zone-1"]), e('b')],
            "ab",
        ),
        (
            "zone hints count though an unready endpoint has none",
            vec![
                e('a').for_zones(&["zone-1"]),
                e('b').for_zones(&["zone-2"]),
                e('c').unready(),
                e('d').draining(),
            ],
            "a",
        ),
        (
            "zone hints are ignored when none is for this zone",
            vec![e('a').for_zones(&["zone-2"]), e('b').for_zones(&["zone-3"])],
            "ab",
        ),
        (
            "an unready endpoint's hint for this zone does not count",
            vec![e('a').for_zones(&["zone-2"]), e('b').unready().for_zones(&["zone-1"])],
            "a",
        ),
        (
            "node hints for this node narrow",
            vec![e('a').for_nodes(&["here"]), e('b').for_nodes(&["there"])],
            "a",
        ),
        (
            "node hints go before zone hints",
            vec![
                e('a').for_nodes(&["here"]).for_zones(&["zone-2"]),
                e('b').for_nodes(&["there"]).for_zones(&["zone-1"]),
            ],
            "a",
        ),
        (
            "zone hints apply when a ready endpoint has no node hint",
            vec![e('a').for_nodes(&["here"]).for_zones(&["zone-2"]), e('b').for_zones(&["zone-1"])],
            "b",
        ),
        (
            "zone hints apply when no node hint is for this node",
            vec![
                e('a').for_nodes(&["there"]).for_zones(&["zone-1"]),
                e('b').for_nodes(&["elsewhere"]).for_zones(&["zone-2"]),
            ],
            "a",
        ),
        (
            "hints do not apply to draining endpoints",
            vec![
                e('a').draining().for_zones(&["zone-1"]),
                e('b').draining().for_zones(&["zone-2"]),
            ],
            "ab",
        ),
    ];
    for (rule, endpoints, expected) in cases {
        assert_eq!(letters(&chosen(endpoints, HERE, Cluster)), *expected, "{rule}");
    }
}

#[test]
fn zone_hints_do_not_apply_on_a_node_without_zone() {
    let node = ThisNode { zone: None, ..HERE };
    let endpoints = [e('a').for_zones(&["zone-1"]), e('b').for_zones(&[""])];
    assert_eq!(letters(&chosen(&endpoints, node, Cluster)), "ab");
}

#[test]
fn local_policy_uses_what_kube_proxy_uses() {
    let cases: &[(&str, Vec<Endpoint>, &str)] = &[
        ("nothing on this node", vec![e('a').on("there"), e('b')], ""),
        ("ready ones on this node", vec![e('a').on("there"), e('b').on("here")], "b"),
        (
            "draining ones here rest while one here is ready",
            vec![e('a').on("here"), e('b').on("here").draining()],
            "a",
        ),
        (
            "draining ones here serve though one elsewhere is ready",
            vec![e('a').on("there"), e('b').on("here").draining()],
            "b",
        ),
        ("unready ones here are not used", vec![e('a').on("here").unready()], ""),
        (
            "hints do not apply",
            vec![
                e('a').on("here").for_zones(&["zone-2"]).for_nodes(&["there"]),
                e('b').on("there").for_zones(&["zone-1"]).for_nodes(&["here"]),
            ],
            "a",
        ),
    ];
    for (rule, endpoints, expected) in cases {
        assert_eq!(letters(&chosen(endpoints, HERE, Local)), *expected, "{rule}");
    }
}

#[test]
fn the_class_of_traffic_follows_the_endpoints_node_and_zone() {
    use TrafficClass::{OtherZone, SameNode, SameZone, Unknown};
    let without_zone = ThisNode { zone: None, ..HERE };
    // The class, and that on a node without a zone.
    let cases: &[(&str, Endpoint, TrafficClass, TrafficClass)] = &[
        ("on this node", e('a').on("here").in_zone("zone-1"), SameNode, SameNode),
        ("on this node, no zone named", e('a').on("here"), SameNode, SameNode),
        (
            "the node counts before the zone",
            e('a').on("here").in_zone("zone-2"),
            SameNode,
            SameNode,
        ),
        ("another node, this zone", e('a').on("there").in_zone("zone-1"), SameZone, Unknown),
        ("no node named, this zone", e('a').in_zone("zone-1"), SameZone, Unknown),
        ("another zone", e('a').on("there").in_zone("zone-2"), OtherZone, Unknown),
        ("no node named, another zone", e('a').in_zone("zone-2"), OtherZone, Unknown),
        ("no zone named", e('a').on("there"), Unknown, Unknown),
        ("neither named", e('a'), Unknown, Unknown),
        (
            "hints say nothing of it",
            e('a').on("there").in_zone("zone-2").for_zones(&["zone-1"]).for_nodes(&["here"]),
            OtherZone,
            Unknown,
        ),
        ("nor instead of a zone", e('a').on("there").for_zones(&["zone-1"]), Unknown, Unknown),
        ("draining", e('a').draining().on("there").in_zone("zone-1"), SameZone, Unknown),
    ];
    for (rule, endpoint, here, nowhere) in cases {
        for (node, expected) in [(HERE, here), (without_zone, nowhere)] {
            let candidates = [Candidate { endpoint, port: 1 }];
            let backends = super::chosen(Cluster, &candidates, node);
            let classes: Vec<_> = backends.iter().map(|backend| backend.traffic_class).collect();
            assert_eq!(classes, [*expected], "{rule}, {node:?}");
        }
    }
}

/// They are chosen as that node would, and this node reaches them.
#[test]
fn endpoints_of_another_node_have_the_class_that_they_have_from_here() {
    let endpoints = [
        e('a').on("there").in_zone("zone-1"),
        e('b').on("elsewhere").in_zone("zone-2"),
        e('c').on("here").in_zone("zone-1"),
    ];
    let candidates: Vec<_> =
        endpoints.iter().map(|endpoint| Candidate { endpoint, port: 1 }).collect();
    let classes: Vec<_> = by_node(&candidates, HERE)
        .iter()
        .map(|(node, backends)| format!("{node}: {}", backends[0].traffic_class.as_str()))
        .collect();
    assert_eq!(classes, ["elsewhere: other-zone", "here: same-node", "there: same-zone"]);
}

#[test]
fn of_copies_that_differ_in_another_node_alone_one_counts_whatever_the_order() {
    let copies = [e('a'), e('a').on("there"), e('a').on("elsewhere")];
    for (one, other) in copies.iter().flat_map(|one| copies.iter().map(move |other| (one, other))) {
        let by_node = |first: &Endpoint, second: &Endpoint| {
            let slices = [("s-1", first), ("s-2", second)]
                .map(|(name, endpoint)| slice(name, "web", vec![endpoint.clone()]));
            by_node(&merged(&slices), HERE)
        };
        assert_eq!(by_node(one, other), by_node(other, one), "{one:?} {other:?}");
    }
}

#[test]
fn of_copies_that_differ_in_the_zone_alone_one_counts_whatever_the_order() {
    let copies = [e('a'), e('a').in_zone("zone-1"), e('a').in_zone("zone-2")];
    for (one, other) in copies.iter().flat_map(|one| copies.iter().map(move |other| (one, other))) {
        let class = |first: &Endpoint, second: &Endpoint| {
            let slices = [("s-1", first), ("s-2", second)]
                .map(|(name, endpoint)| slice(name, "web", vec![endpoint.clone()]));
            super::chosen(Cluster, &merged(&slices), HERE)[0].traffic_class
        };
        assert_eq!(class(one, other), class(other, one), "{one:?} {other:?}");
    }
}

fn merged<'a>(slices: &'a [EndpointSlice]) -> Vec<Candidate<'a>> {
    candidates(&SlicePorts::of(slices).with(Family::IPv4, "http", Protocol::Tcp), HERE)
}

#[test]
fn same_address_on_two_ports_is_two_endpoints() {
    let mut second = slice("s-2", "web", vec![e('a')]);
    second.ports = vec![endpoint_port("http", Protocol::Tcp, 9090)];
    let slices = [slice("s-1", "web", vec![e('a')]), second];
    assert_eq!(
        texts(&super::chosen(Cluster, &merged(&slices), HERE)),
        ["10.0.0.0:8080", "10.0.0.0:9090"]
    );
}

#[test]
fn only_ports_with_the_same_name_and_protocol_count() {
    for (name, protocol) in [("https", Protocol::Tcp), ("", Protocol::Tcp), ("http", Protocol::Udp)]
    {
        let mut slice = slice("s", "web", vec![e('a')]);
        slice.ports = vec![endpoint_port(name, protocol, 8080)];
        assert!(merged(&[slice]).is_empty(), "{name:?} {protocol}");
    }
}

#[test]
fn slices_of_the_other_family_do_not_count() {
    assert!(merged(&[slice("s", "web", vec![endpoint("fd00::1")])]).is_empty());
}

#[test]
fn five_thousand_endpoints_are_all_used_in_address_order() {
    let slices: Vec<_> = (0..50)
        .rev()
        .map(|i| {
            let endpoints = (0..100).rev().map(|j| endpoint(&format!("10.1.{i}.{j}"))).collect();
            slice(&format!("s-{i}"), "web", endpoints)
        })
        .collect();
    let backends = super::chosen(Cluster, &merged(&slices), HERE);
    assert_eq!(backends.len(), 5000);
    assert!(backends.is_sorted());
}
