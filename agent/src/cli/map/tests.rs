//! Two readings, and what is made of them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    document::TrafficMap,
    dot,
    graph::{self, Counts, Names, Reading},
    layout, svg, text,
    view::View,
};
use crate::{
    dataplane::ServiceKey,
    model::object::{ObjectName, Protocol},
    status::PodRef,
    workloads::{Client, WorkloadRef},
};

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        service: ObjectName::new("shop", name),
        port_name: "web".into(),
        protocol: Protocol::Tcp,
    }
}

fn counts(opened: u64, active: u64, failed: u64) -> Counts {
    Counts { active, opened, failed, sent: 100 * opened, received: 1000 * opened }
}

fn deployment(name: &str) -> Client {
    let workload = WorkloadRef {
        namespace: Some("shop".into()),
        kind: "Deployment".into(),
        name: name.to_owned(),
    };
    Client { pod: Some(PodRef::new(None, "uid")), workload: Some(workload) }
}

fn names() -> Names {
    let node = WorkloadRef { namespace: None, kind: "Node".into(), name: "node".into() };
    let pod = Client { pod: Some(PodRef::new(None, "0b7e")), workload: None };
    [
        (1, deployment("frontend")),
        (2, deployment("frontend")),
        (3, Client { pod: None, workload: Some(node) }),
        (4, pod),
    ]
    .into()
}

type Edges<'a, T> = &'a [(T, Counts)];

fn add(
    reading: &mut Reading,
    name: &str,
    clients: Edges<'_, u64>,
    backends: Edges<'_, &str>,
    own: Counts,
) {
    let backends = backends.iter().map(|(to, counts)| (to.parse::<SocketAddr>().unwrap(), *counts));
    reading.services.insert(key(name), own);
    reading.backends.insert(key(name), backends.collect());
    reading.clients.insert(key(name), clients.iter().copied().collect());
}

/// `cart` is called by two pods of a Deployment and by the node, `pay` fails, `idle` was never used.
fn readings() -> [Reading; 2] {
    let mut before = Reading::default();
    add(
        &mut before,
        "cart",
        &[(1, counts(10, 1, 0)), (3, counts(4, 0, 0))],
        &[("10.244.1.1:8080", counts(14, 1, 0))],
        counts(14, 1, 0),
    );
    add(
        &mut before,
        "pay",
        &[(1, counts(6, 0, 6))],
        &[("10.244.9.9:8080", counts(6, 0, 6))],
        counts(6, 0, 6),
    );
    add(&mut before, "idle", &[], &[("10.244.1.3:8080", counts(0, 0, 0))], counts(0, 0, 0));
    let mut now = before.clone();
    now.at = Duration::from_secs(2);
    add(
        &mut now,
        "cart",
        &[(1, counts(30, 2, 0)), (2, counts(8, 1, 0)), (3, counts(4, 0, 0)), (4, counts(1, 0, 0))],
        &[("10.244.1.1:8080", counts(29, 2, 0)), ("[fd00::2]:8080", counts(14, 1, 0))],
        counts(43, 3, 0),
    );
    add(
        &mut now,
        "pay",
        &[(1, counts(9, 0, 9))],
        &[("10.244.9.9:8080", counts(9, 0, 9))],
        counts(9, 0, 9),
    );
    [before, now]
}

fn map() -> TrafficMap {
    let [before, now] = readings();
    graph::between("node-a".into(), [&before, &now], &names(), |_| true)
}

#[test]
fn clients_are_grouped_by_workload_and_rates_are_what_was_counted_in_between() {
    let map = map();
    let cart = &map.services[0];
    assert_eq!((map.services.len(), &*cart.service.name), (2, "cart"), "idle is omitted");
    let frontend = &cart.clients[1];
    assert_eq!(frontend.workload, deployment("frontend").workload);
    // One of its pods was not there before.
    assert_eq!((frontend.cgroups, frontend.traffic.opened, frontend.traffic.active), (2, 38, 3));
    assert_eq!((frontend.traffic.rates.opened, frontend.traffic.rates.sent_bytes), (14.0, 1400.0));
    assert_eq!(cart.clients[2].pod_uid.as_deref(), Some("0b7e"));
    assert_eq!(map.services[1].traffic.rates.failed, 1.5);
}

#[test]
fn a_count_that_fell_has_no_rate() {
    let [before, mut now] = readings();
    let mut clients = BTreeMap::new();
    clients.insert(1, counts(2, 0, 0));
    now.clients.insert(key("cart"), clients);
    let map = graph::between("node-a".into(), [&before, &now], &names(), |key| {
        &*key.service.name == "cart"
    });
    assert_eq!(map.services.len(), 1);
    assert_eq!(map.services[0].clients[0].traffic.rates.opened, 0.0);
}

#[test]
fn text_is_a_tree_with_aligned_numbers() {
    let expected = "\
node-a  2 service ports with traffic, rates over 2s
                                     CONN/S   ACTIVE   FAIL/S   SENT/S   RECV/S   OPENED   FAILED
shop/cart:web/TCP                      14.5        3        0     1.4K    14.2K       43        0
├─ from node                              0        0        0        0        0        4        0
├─ from shop/frontend (Deployment)     14.0        3        0     1.4K    13.7K       38        0
├─ from pod uid 0b7e                    0.5        0        0       50      500        1        0
├─ to   10.244.1.1:8080                 7.5        2        0      750     7.3K       29        0
└─ to   [fd00::2]:8080                  7.0        1        0      700     6.8K       14        0

shop/pay:web/TCP                        1.5        0      1.5      150     1.5K        9        9
├─ from shop/frontend (Deployment)      1.5        0      1.5      150     1.5K        9        9
└─ to   10.244.9.9:8080                 1.5        0      1.5      150     1.5K        9        9
";
    let text = text::render(&View::of(&map()));
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn dot_has_each_workload_once() {
    let expected = r#"digraph sockline {
  graph [rankdir=LR, labelloc=t, label="node-a  1 service port with traffic, rates over 2s"];
  node [shape=box, style=rounded];
  "service shop/pay:web/TCP" [label="shop/pay:web/TCP\n1.5 conn/s, 0 active", style="rounded,bold"];
  "client shop/frontend (Deployment) " [label="shop/frontend\nDeployment"];
  "client shop/frontend (Deployment) " -> "service shop/pay:web/TCP" [label="1.5/s, 1.5 failed/s", penwidth=1.4, color=red, style=dashed];
  "backend shop/pay:web/TCP 10.244.9.9:8080" [label="10.244.9.9:8080"];
  "service shop/pay:web/TCP" -> "backend shop/pay:web/TCP 10.244.9.9:8080" [label="1.5/s, 1.5 failed/s", penwidth=1.4, color=red, style=dashed];
}
"#;
    let mut map = map();
    map.services.remove(0);
    let dot = dot::render(&View::of(&map));
    assert_eq!(dot, expected, "\n{dot}");
}

/// A cluster with many clients and backends, and names from outside that mean something to each format.
fn large() -> TrafficMap {
    let [before, mut now] = readings();
    let mut names = names();
    let clients: BTreeMap<u64, Counts> = (10..40).map(|id| (id, counts(id, 1, 0))).collect();
    for id in 10..40 {
        names.insert(id, deployment(&format!("w{id}")));
    }
    names.insert(39, deployment("a\"b\\c<d>&e\n]];\u{202e}"));
    now.clients.insert(key("cart"), clients);
    let backends = (1..20)
        .map(|host| (SocketAddr::from(([10, 0, 0, host], 80)), counts(u64::from(host), 0, 0)));
    now.backends.insert(key("cart"), backends.collect());
    graph::between("node-a".into(), [&before, &now], &names, |_| true)
}

#[test]
fn of_many_clients_the_busiest_are_shown_and_the_others_are_one() {
    let map = large();
    let view = View::of(&map);
    let cart = &view.services[0];
    let shown: Vec<&str> = cart.clients.iter().map(|client| &*client.name).collect();
    assert_eq!(shown.len(), 8);
    assert_eq!(
        &shown[1..],
        ["shop/w33", "shop/w34", "shop/w35", "shop/w36", "shop/w37", "shop/w38", "23 more"]
    );
    assert_eq!(cart.clients[7].traffic.opened, (10..33).sum::<u64>());
    let all: u64 = cart.backends.iter().map(|backend| backend.traffic.opened).sum();
    assert_eq!((cart.backends.len(), all), (8, (1..20).sum()));
}

#[test]
fn no_name_changes_the_syntax() {
    let view = View::of(&large());
    let text = text::render(&view);
    assert!(text.contains(r#"shop/a"b\c<d>&e\n]];\u{202e}"#), "{text}");
    let dot = dot::render(&view);
    assert!(dot.contains(r#"label="shop/a\"b\\c<d>&e\\n]];\\u{202e}\nDeployment""#), "{dot}");
    let outside = outside_quotes(&dot);
    let is_known = |c: char| c.is_ascii_alphanumeric() || " \n{}[]=;,->._".contains(c);
    assert!(outside.chars().all(is_known), "{outside}");
    let svg = svg::render(&view);
    assert!(svg.contains(r"shop/a&quot;b\c&lt;d&gt;&amp;e"), "{svg}");
    well_formed(&svg);
}

/// What of a dot file is no text in quotes.
fn outside_quotes(dot: &str) -> String {
    let (mut outside, mut is_within, mut is_escaped) = (String::new(), false, false);
    for c in dot.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_within => is_escaped = true,
            '"' => is_within = !is_within,
            _ if is_within => {}
            _ => outside.push(c),
        }
    }
    assert!(!is_within, "{dot}");
    outside
}

/// Every element ends, in the order in which they begin, and every attribute is in quotes.
fn well_formed(xml: &str) {
    let mut open = Vec::new();
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("{part}"));
        assert!(!text.contains('>'), "{part}");
        let references = text.split('&').skip(1).chain(tag.split('&').skip(1));
        for reference in references {
            let names = ["amp;", "lt;", "gt;", "quot;"];
            assert!(names.iter().any(|name| reference.starts_with(name)), "{part}");
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap_or_default());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_picture_stands_alone() {
    let svg = svg::render(&View::of(&map()));
    well_formed(&svg);
    assert_eq!(svg, svg::render(&View::of(&map())), "it is the same each time");
    for foreign in ["<script", "href", "url(", "@import", "<image", "onload"] {
        assert!(!svg.contains(foreign), "{foreign}");
    }
    assert_eq!(svg.matches("http").count(), 1, "the name of the format");
    assert!(svg.contains("@media (prefers-color-scheme: dark)"));
    assert_eq!(svg.matches("class=\"edge failing\"").count(), 2);
    let empty = View { title: "node-a".into(), services: Vec::new() };
    well_formed(&svg::render(&empty));
}

#[test]
fn boxes_do_not_overlap_and_edges_end_at_rows_of_their_service() {
    let view = View::of(&large());
    let layout = layout::of(&view);
    for pair in layout.clients.windows(2) {
        assert!(pair[0].top + layout::CLIENT_HEIGHT < pair[1].top, "{pair:?}");
    }
    for pair in layout.services.windows(2) {
        assert!(pair[0].top + pair[0].height < pair[1].top, "{pair:?}");
    }
    let edges = layout.clients.iter().flat_map(|client| &client.edges);
    for (row, _) in edges {
        let is_within = |top: f64, height: f64| (top..top + height).contains(row);
        assert!(layout.services.iter().any(|of| is_within(of.top, of.height)), "{row}");
    }
    let last = layout.clients.last().unwrap();
    assert!(last.top + layout::CLIENT_HEIGHT < layout.height);
}
