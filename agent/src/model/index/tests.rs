mod traffic_class;

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::model::event::Event;
use crate::model::object::{Namespace, Redirect, TrafficPolicy};
use crate::model::plan::Plan;
use crate::model::testing::{
    endpoint, ip, line, name, node, node_at, pod, service, slice, sourced,
};

/// All kinds listed, nothing there but this node.
fn synced() -> Index {
    let mut index = Index::new("here");
    index.apply(Event::Replace(Kind::Service, vec![]));
    for kind in [Kind::EndpointSlice, Kind::Namespace, Kind::Pod] {
        index.apply(Event::Replace(kind, vec![]));
    }
    index.apply(Event::Replace(Kind::Node, vec![sourced(node("here", Some("zone-1")))]));
    index
}

/// With service `web` and one endpoint.
fn serving() -> Index {
    let mut index = synced();
    index.apply(Event::Apply(sourced(service("web", "10.96.0.1"))));
    index.apply(Event::Apply(sourced(slice("web-1", "web", vec![endpoint("10.0.0.1")]))));
    index
}

fn lines(index: &mut Index) -> Vec<String> {
    index.plan().frontends.iter().map(|frontend| line(frontend)).collect()
}

fn input_errors(index: &mut Index) -> Vec<String> {
    index.plan();
    index.input_errors().iter().map(ToString::to_string).collect()
}

#[test]
fn is_synced_once_every_kind_was_listed() {
    let mut index = Index::new("here");
    for kind in Kind::ALL {
        assert!(!index.synced(), "before {kind}");
        index.apply(Event::Apply(sourced(service("web", "10.96.0.1"))));
        index.apply(Event::Replace(kind, vec![]));
    }
    assert!(index.synced());
}

#[test]
fn a_slice_waits_for_its_service() {
    let mut index = synced();
    index.apply(Event::Apply(sourced(slice("web-1", "web", vec![endpoint("10.0.0.1")]))));
    assert!(lines(&mut index).is_empty());
    index.apply(Event::Apply(sourced(service("web", "10.96.0.1"))));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080]"]);
}

#[test]
fn a_deleted_slice_takes_its_endpoints_along() {
    let mut index = serving();
    index.plan();
    index.apply(Event::Delete(ObjectRef { kind: Kind::EndpointSlice, name: name("web-1") }));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.1 80/TCP Refuse NoEndpoints []"]);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut index = serving();
    index.apply(Event::Apply(sourced(service("other", "10.96.0.2"))));
    index.plan();
    index.apply(Event::Apply(sourced(slice("web-1", "other", vec![endpoint("10.0.0.1")]))));
    assert_eq!(
        lines(&mut index),
        [
            "ClusterIP 10.96.0.2 80/TCP Forward [10.0.0.1:8080]",
            "ClusterIP 10.96.0.1 80/TCP Refuse NoEndpoints []",
        ]
    );
}

#[test]
fn a_replace_removes_what_it_does_not_name() {
    let mut index = serving();
    index.apply(Event::Apply(
        sourced(service("bad", "10.96.0.9")).with_input_error("spec").unusable(),
    ));
    index.apply(Event::Replace(Kind::Service, vec![sourced(service("new", "10.96.0.3"))]));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.3 80/TCP Refuse NoEndpoints []"]);
    assert!(input_errors(&mut index).is_empty(), "{:?}", index.input_errors());
}

#[test]
fn zone_hints_follow_this_nodes_zone() {
    let mut index = serving();
    let endpoints = vec![
        endpoint("10.0.0.1").for_zones(&["zone-1"]),
        endpoint("10.0.0.2").for_zones(&["zone-2"]),
    ];
    index.apply(Event::Apply(sourced(slice("web-1", "web", endpoints))));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080]"]);
    index.apply(Event::Apply(sourced(node("here", Some("zone-2")))));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.2:8080]"]);
    index.apply(Event::Delete(ObjectRef { kind: Kind::Node, name: ObjectName::new("", "here") }));
    assert_eq!(
        lines(&mut index),
        ["ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080 10.0.0.2:8080]"]
    );
}

#[test]
fn node_ports_of_policy_local_follow_the_addresses_of_other_nodes() {
    let mut index = synced().with_node_ports(NodePortScope::AllNodes);
    let mut web = service("web", "10.96.0.1");
    web.external_traffic_policy = TrafficPolicy::Local;
    web.ports[0].node_port = Some(30080);
    index.apply(Event::Apply(sourced(web)));
    let endpoints = vec![endpoint("10.0.0.1").on("there")];
    index.apply(Event::Apply(sourced(slice("web-1", "web", endpoints))));
    let at_ips = |index: &mut Index| {
        let is_at_ip = |line: &String| line.starts_with("NodePort 192.");
        lines(index).into_iter().filter(is_at_ip).collect::<Vec<_>>()
    };
    assert_eq!(at_ips(&mut index), [""; 0]);
    for address in ["192.0.2.1", "192.0.2.2"] {
        index.apply(Event::Apply(sourced(node_at("there", &[address]))));
        let expected = format!("NodePort {address} 30080/TCP Forward [10.0.0.1:8080]");
        assert_eq!(at_ips(&mut index), [expected]);
    }
    index.apply(Event::Delete(ObjectRef { kind: Kind::Node, name: ObjectName::new("", "there") }));
    assert_eq!(at_ips(&mut index), [""; 0]);
}

#[test]
fn a_missing_node_is_a_input_error_only_once_synced() {
    let mut index = Index::new("here");
    index.apply(Event::Replace(Kind::Node, vec![sourced(node("there", None))]));
    for kind in [Kind::Service, Kind::Namespace, Kind::Pod] {
        index.apply(Event::Replace(kind, vec![]));
    }
    assert!(input_errors(&mut index).is_empty());
    index.apply(Event::Replace(Kind::EndpointSlice, vec![]));
    let input_errors = input_errors(&mut index);
    assert_eq!(input_errors.len(), 1);
    assert!(input_errors[0].starts_with("Node here: "), "{input_errors:?}");
}

#[test]
fn a_corrected_service_takes_effect_and_its_input_error_goes() {
    let mut index = serving();
    index.apply(Event::Apply(sourced(service("web", "10.96.0.7")).with_input_error("spec")));
    index.apply(Event::Apply(sourced(service("web", "10.96.0.8"))));
    assert_eq!(lines(&mut index), ["ClusterIP 10.96.0.8 80/TCP Forward [10.0.0.1:8080]"]);
    assert!(input_errors(&mut index).is_empty());
}

#[test]
fn unchanged_frontends_keep_their_allocation() {
    let mut index = serving();
    let mut two_ports = service("two", "10.96.0.2");
    two_ports.external_ips = vec![ip("198.51.100.1")];
    index.apply(Event::Apply(sourced(two_ports.clone())));
    let before = index.plan();

    index.apply(Event::Apply(sourced(slice("web-1", "web", vec![endpoint("10.0.0.2")]))));
    two_ports.external_ips = vec![ip("198.51.100.2")];
    index.apply(Event::Apply(sourced(two_ports)));
    // A new list of the same objects changes nothing either.
    index.apply(Event::Replace(Kind::Node, vec![sourced(node("here", Some("zone-1")))]));
    let after = index.plan();

    let kept = |plan: &Plan, other: &Plan| -> Vec<String> {
        let shared = |f: &&Arc<Frontend>| other.frontends.iter().any(|g| Arc::ptr_eq(f, g));
        plan.frontends.iter().filter(shared).map(|f| line(f)).collect()
    };
    assert_eq!(kept(&after, &before), ["ClusterIP 10.96.0.2 80/TCP Refuse NoEndpoints []"]);
    let again = index.plan();
    assert_eq!(kept(&again, &after).len(), again.frontends.len());
}

#[test]
fn the_loser_gets_the_address_when_the_winner_goes() {
    let mut index = serving();
    index.apply(Event::Apply(sourced(Service { created: None, ..service("late", "10.96.0.1") })));
    assert_eq!(index.plan().frontends[0].service, name("web"));
    assert_eq!(input_errors(&mut index).len(), 1);
    index.apply(Event::Delete(ObjectRef { kind: Kind::Service, name: name("web") }));
    assert_eq!(index.plan().frontends[0].service, name("late"));
    assert!(input_errors(&mut index).is_empty());
}

#[test]
fn errors_of_the_source_replace_the_earlier_ones() {
    let error = |what: &str| InputError {
        object: format!("file {what}").into(),
        field: String::new(),
        message: "broken".to_owned(),
    };
    let mut index = synced();
    index.apply(Event::SourceErrors(vec![error("b"), error("a"), error("a")]));
    assert_eq!(input_errors(&mut index), ["file a: broken", "file b: broken"]);
    index.apply(Event::SourceErrors(vec![]));
    assert!(input_errors(&mut index).is_empty());
}

#[test]
fn objects_of_each_kind_are_counted() {
    let mut index = serving();
    let two = vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")];
    index.apply(Event::Apply(sourced(slice("orphan-1", "orphan", two))));
    assert_eq!(index.counts(), Counts { services: 1, endpoint_slices: 2, endpoints: 3 });
}

/// A change of one service in a large cluster costs that service, not the cluster.
#[test]
fn one_change_among_ten_thousand_services_plans_one_service() {
    let mut index = synced();
    let services = (0..10_000)
        .map(|i| sourced(service(&format!("s{i}"), &format!("10.96.{}.{}", i / 256, i % 256))));
    let slices = (0..10_000).map(|i| {
        let endpoints =
            (0..10).map(|j| endpoint(&format!("10.{j}.{}.{}", i / 256, i % 256))).collect();
        sourced(slice(&format!("s{i}-1"), &format!("s{i}"), endpoints))
    });
    index.apply(Event::Replace(Kind::Service, services.collect()));
    index.apply(Event::Replace(Kind::EndpointSlice, slices.collect()));
    let before = index.plan();
    assert_eq!(before.frontends.len(), 10_000);
    assert_eq!(index.counts().endpoints, 100_000);

    index.apply(Event::Apply(sourced(slice("s7-1", "s7", vec![endpoint("10.0.0.1")]))));
    assert_eq!(index.dirty.len(), 1);
    let changes = index.changes();
    assert_eq!(changes.services.len(), 1);
    assert!(!changes.addresses_moved, "endpoints do not change who claims what");
    let after = index.plan();
    let changed = before.frontends.iter().zip(&after.frontends);
    assert_eq!(changed.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
}

fn namespace(redirect: Redirect) -> Namespace {
    Namespace { name: "ns".into(), redirect }
}

#[test]
fn excluded_pods_follow_their_namespace_in_any_order() {
    let mut index = synced();
    let excluded_pods = |index: &mut Index| {
        let found = index.excluded_pods(&Policy::default());
        found.map(|found| found.keys().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(excluded_pods(&mut index), Some(vec![]));
    assert_eq!(excluded_pods(&mut index), None, "nothing changed");
    index.apply(Event::Apply(sourced(pod("a", "here"))));
    assert_eq!(excluded_pods(&mut index), Some(vec![]));
    index.apply(Event::Apply(sourced(namespace(Redirect::Disabled))));
    assert_eq!(excluded_pods(&mut index), Some(vec!["uid-a".to_owned()]));
    index.apply(Event::Apply(sourced(pod("a", "here"))));
    assert_eq!(excluded_pods(&mut index), None, "the same again is no change");
    index.apply(Event::Replace(Kind::Pod, vec![sourced(pod("b", "here"))]));
    assert_eq!(excluded_pods(&mut index), Some(vec!["uid-b".to_owned()]));
    let namespace = ObjectRef { kind: Kind::Namespace, name: ObjectName::new("", "ns") };
    index.apply(Event::Delete(namespace));
    assert_eq!(excluded_pods(&mut index), Some(vec![]));
}

#[test]
fn a_throttled_service_stays_unplanned_and_is_planned_later_with_all_its_causes() {
    let mut index = synced();
    for name in ["big", "web"] {
        let ip = if name == "big" { "10.96.0.1" } else { "10.96.0.2" };
        index.apply(Event::Apply(sourced(service(name, ip))));
    }
    index.plan();
    let first = Instant::now();
    for n in 1..=3 {
        let endpoints = vec![endpoint(&format!("10.0.0.{n}"))];
        let slice = slice("big-1", "big", endpoints.clone());
        index.apply_arrived(Event::Apply(sourced(slice)), first + Duration::from_millis(n));
    }
    index.apply(Event::Apply(sourced(slice("web-1", "web", vec![endpoint("10.0.0.9")]))));
    let names = |changes: &Changes| -> Vec<String> {
        changes.services.iter().map(|part| part.service.name.to_string()).collect()
    };
    let now = index.changes_except(|service| &*service.name == "big");
    assert_eq!(names(&now), ["web"]);
    assert!(!now.addresses_moved);
    // A look at what is planned takes nothing away from what waits.
    let _ = index.planned();
    let later = index.changes();
    assert_eq!(names(&later), ["big"]);
    let backends = &later.services[0].frontends[0].backends;
    assert_eq!(crate::model::testing::texts(backends), ["10.0.0.3:8080"]);
    let arrived: Vec<Instant> = later.services[0].causes.iter().map(|c| c.arrived).collect();
    assert_eq!(arrived, [1, 2, 3].map(|n| first + Duration::from_millis(n)));
    assert!(index.changes().services.is_empty());
}

#[test]
fn an_address_that_moves_between_services_says_so() {
    let mut index = serving();
    let first = index.changes();
    assert!(!first.addresses_moved, "nobody had it before");
    index.apply(Event::Apply(sourced(service("web", "10.96.0.9"))));
    index.apply(Event::Apply(sourced(service("other", "10.96.0.1"))));
    let moved = index.changes();
    assert!(moved.addresses_moved);
    assert_eq!(moved.services.len(), 2);
}

#[test]
fn the_trigger_counts_only_when_it_is_new() {
    let mut index = serving();
    index.changes();
    let time: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut triggers = |endpoint_address: &str, triggered: Option<Timestamp>| {
        let mut slice = slice("web-1", "web", vec![endpoint(endpoint_address)]);
        slice.triggered = triggered;
        index.apply_arrived(Event::Apply(sourced(slice)), Instant::now());
        let services = index.changes().services;
        services.iter().flat_map(|part| &part.causes).map(|c| c.triggered).collect::<Vec<_>>()
    };
    assert_eq!(triggers("10.0.0.2", Some(time)), [Some(time)]);
    assert_eq!(triggers("10.0.0.3", Some(time)), [None], "it is there from the change before");
    assert_eq!(triggers("10.0.0.3", None), [], "the plan is the same");
}
