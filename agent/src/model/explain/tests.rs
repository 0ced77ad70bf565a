//! Each reason, and that the reasons are the choice.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::model::{
    conflict::Claims,
    object::Endpoint,
    plan::EndpointReason,
    testing::{endpoint, endpoint_port, name, service, service_port, slice, texts},
};

const HERE: ThisNode<'_> = ThisNode { name: "here", zone: Some("zone-1") };

fn explain(of: &Service, slices: &[EndpointSlice]) -> ServiceExplanation {
    super::service(of, slices, HERE, None, &Conflicts::default(), None)
}

/// `address:port reason` of each endpoint.
fn lines(choice: &Choice) -> Vec<String> {
    let line = |e: &EndpointExplanation| {
        let port = e.port.map_or_else(|| "-".into(), |port| port.to_string());
        format!("{}:{port} {:?}", e.address, e.reason)
    };
    choice.endpoints.iter().map(line).collect()
}

/// The reasons of one slice's endpoints for a policy of the cluster IP.
fn reasons(policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> Vec<EndpointReason> {
    let of = Service { internal_traffic_policy: policy, ..service("web", "10.96.0.1") };
    let explained = explain(&of, &[slice("web-1", "web", endpoints)]);
    let [choice] = &explained.ports[0].choices[..] else { panic!("{explained:#?}") };
    assert_eq!(choice.traffic_policy, policy);
    choice.endpoints.iter().map(|endpoint| endpoint.reason).collect()
}

fn a() -> Endpoint {
    endpoint("10.0.0.1")
}

fn b() -> Endpoint {
    endpoint("10.0.0.2")
}

#[test]
fn every_endpoint_has_its_reason() {
    use EndpointReason as R;
    use TrafficPolicy::{Cluster, Local};
    let gone = || Endpoint { serving: false, ..a().draining() };
    for (policy, endpoints, expected) in [
        (Cluster, vec![a(), b().unready()], [R::Ready, R::NotReady]),
        (Cluster, vec![gone(), b()], [R::Terminating, R::Ready]),
        (Cluster, vec![a().draining(), b()], [R::OthersAreReady, R::Ready]),
        (Cluster, vec![a().draining(), b().unready()], [R::ServingWhileTerminating, R::NotReady]),
        (Local, vec![a().on("here"), b().on("there")], [R::Ready, R::NotOnThisNode]),
        (
            Local,
            vec![a().on("here").draining(), b().on("there")],
            [R::ServingWhileTerminating, R::NotOnThisNode],
        ),
        (
            Cluster,
            vec![a().for_zones(&["zone-1"]), b().for_zones(&["zone-2"])],
            [R::Ready, R::HintedForOtherZones],
        ),
        (
            Cluster,
            vec![a().for_nodes(&["there"]), b().for_nodes(&["here"])],
            [R::HintedForOtherNodes, R::Ready],
        ),
        // One of them has no hint: hints do not count.
        (Cluster, vec![a(), b().for_zones(&["zone-2"])], [R::Ready, R::Ready]),
    ] {
        assert_eq!(reasons(policy, endpoints.clone()), expected, "{policy:?} {endpoints:#?}");
    }
}

#[test]
fn an_endpoint_that_is_no_candidate_has_its_reason() {
    let slices = [
        slice("web-1", "web", vec![a()]),
        slice("web-2", "web", vec![a().draining()]),
        slice("web-6", "web", vec![endpoint("2001:db8::1")]),
        EndpointSlice {
            ports: vec![endpoint_port("other", Protocol::Tcp, 9090)],
            ..slice("web-3", "web", vec![b()])
        },
    ];
    let explained = explain(&service("web", "10.96.0.1"), &slices);
    let expected = [
        "10.0.0.1:8080 Ready",
        "10.0.0.1:8080 Duplicate",
        "10.0.0.2:- NoSuchPort",
        "2001:db8::1:8080 OtherFamily",
    ];
    assert_eq!(lines(&explained.ports[0].choices[0]), expected);
}

#[test]
fn a_frontend_has_its_policy_and_the_service_port_that_has_its_address() {
    let of = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        external_traffic_policy: TrafficPolicy::Local,
        external_ips: vec!["192.0.2.1".parse().unwrap()],
        created: Some(2),
        ..service("web", "10.96.0.1")
    };
    let older = Service {
        external_ips: of.external_ips.clone(),
        ports: vec![service_port("first", Protocol::Tcp, 80)],
        ..service("older", "10.96.0.2")
    };
    let frontends = |of: &Service| -> Vec<Arc<Frontend>> {
        service_frontends(of, &[], HERE, None).into_iter().map(Arc::new).collect()
    };
    let mut conflicts = Conflicts::default();
    for of in [&of, &older] {
        conflicts.update(None, Some(Claims::new(of, &frontends(of))));
    }
    let slices = [slice("web-1", "web", vec![a().on("there")])];
    let explained = super::service(&of, &slices, HERE, None, &conflicts, None);
    let [internal, external] = &explained.ports[0].frontends[..] else { panic!("{explained:#?}") };
    assert_eq!(
        (internal.address.as_str(), internal.traffic_policy, internal.reason),
        ("10.96.0.1", Some(TrafficPolicy::Local), Some(Reason::NoLocalEndpoints))
    );
    assert_eq!(internal.lost_to, None);
    assert_eq!(
        (external.address.as_str(), external.traffic_policy, external.action),
        ("192.0.2.1", Some(TrafficPolicy::Cluster), Action::Forward)
    );
    assert_eq!(external.lost_to, Some((name("older"), "first".into())));
    let policies: Vec<_> =
        explained.ports[0].choices.iter().map(|choice| choice.traffic_policy).collect();
    assert_eq!(policies, [TrafficPolicy::Cluster, TrafficPolicy::Local]);
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    const HINTS: &[&[&str]] = &[&[], &["zone-1"], &["zone-2"]];
    (1..5_u8, select(&["here", "there"][..]), select(HINTS), select(HINTS), any::<[bool; 3]>())
        .prop_map(|(number, on, zones, nodes, [ready, serving, terminating])| {
            let endpoint = endpoint(&format!("10.0.0.{number}")).on(on).for_zones(zones);
            // As names of nodes the same texts do.
            Endpoint { ready, serving, terminating, ..endpoint.for_nodes(nodes) }
        })
}

proptest! {
    /// What the explanation calls chosen are the backends of the plan, for each frontend.
    #[test]
    fn the_explanation_is_the_plan(
        slices in vec(vec(any_endpoint(), 0..5), 0..4),
        [internal, external] in any::<[bool; 2]>(),
        node in select(&["here", "there", "zone-1"][..]),
    ) {
        let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let of = Service {
            internal_traffic_policy: policy(internal),
            external_traffic_policy: policy(external),
            external_ips: vec!["192.0.2.1".parse().unwrap()],
            ..service("web", "10.96.0.1")
        };
        let slices: Vec<_> = slices
            .into_iter()
            .enumerate()
            .map(|(number, endpoints)| slice(&format!("web-{number}"), "web", endpoints))
            .collect();
        let node = ThisNode { name: node, zone: Some("zone-1") };
        let explained = super::service(&of, &slices, node, None, &Conflicts::default(), None);
        let port = &explained.ports[0];
        for frontend in service_frontends(&of, &slices, node, None) {
            let address = frontend.address.to_string();
            let seen = port.frontends.iter().find(|seen| seen.address == address).unwrap();
            prop_assert_eq!((seen.action, seen.reason), (frontend.action, frontend.reason));
            let choice = port
                .choices
                .iter()
                .find(|choice| Some(choice.traffic_policy) == seen.traffic_policy)
                .unwrap();
            let chosen: Vec<String> = choice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.reason.is_chosen())
                .map(|e| format!("{}:{}", e.address, e.port.unwrap()))
                .collect();
            prop_assert_eq!(chosen, texts(&frontend.backends), "{:#?}", explained);
        }
        // Nothing is skipped: each endpoint is there once.
        let all: usize = slices.iter().map(|slice| slice.endpoints.len()).sum();
        prop_assert!(port.choices.iter().all(|choice| choice.endpoints.len() == all));
    }
}

/// A service with many ports, and one slice that has them with many endpoints.
fn large(ports: u16, endpoints: u16) -> (Service, EndpointSlice) {
    let names: Vec<String> = (0..ports).map(|number| format!("p{number}")).collect();
    let of_service = names.iter().zip(1..).map(|(name, n)| service_port(name, Protocol::Tcp, n));
    let of_slice = names.iter().zip(1..).map(|(name, n)| endpoint_port(name, Protocol::Tcp, n));
    let all = (0..endpoints).map(|n| endpoint(&format!("10.1.{}.{}", n / 256, n % 256)));
    let slice = EndpointSlice { ports: of_slice.collect(), ..slice("web-1", "web", all.collect()) };
    (Service { ports: of_service.collect(), ..service("web", "10.96.0.1") }, slice)
}

fn listed_and_not(explained: &ServiceExplanation) -> (usize, usize) {
    let choices = || explained.ports.iter().flat_map(|port| &port.choices);
    (
        choices().map(|choice| choice.endpoints.len()).sum(),
        choices().map(|choice| choice.unlisted).sum(),
    )
}

#[test]
fn of_very_many_endpoints_some_are_listed_and_the_others_counted() {
    let (of, slice) = large(300, 70);
    let explained = explain(&of, &[slice]);
    assert_eq!(explained.ports.len(), 300);
    assert_eq!(listed_and_not(&explained), (LISTED, 300 * 70 - LISTED));
    assert!(
        explained.ports.iter().all(|port| port.frontends[0].action == Action::Forward),
        "all ports are forwarded"
    );
}

#[test]
fn of_ports_that_are_too_large_no_endpoint_is_listed() {
    let (of, slice) = large(600, 500);
    let explained = explain(&of, &[slice]);
    let too_large = explained.ports.iter().filter(|port| {
        let [choice] = &port.choices[..] else { panic!("{port:#?}") };
        let is_too_large = port.frontends[0].reason == Some(Reason::TooLarge);
        assert!(!is_too_large || choice.endpoints.is_empty());
        assert_eq!(choice.endpoints.len() + choice.unlisted, 500);
        is_too_large
    });
    assert_eq!(too_large.count(), 600 - super::super::limits::BACKENDS / 500);
}

#[test]
fn one_port_is_explained_alone_and_what_there_is_if_it_does_not_exist() {
    let (mut of, slice) = large(3, 2);
    of.ports[1].node_port = Some(30001);
    let slices = [slice];
    let of_port = |wanted: &str| {
        let none = Conflicts::default();
        let explained = super::service(&of, &slices, HERE, None, &none, Some(wanted));
        let names: Vec<String> = explained.ports.iter().map(|port| port.name.to_string()).collect();
        (names.join(" "), explained.other_ports.join(" "))
    };
    for (wanted, name) in [("p0", "p0"), ("2", "p1"), ("30001", "p1"), ("3", "p2")] {
        assert_eq!(of_port(wanted), (name.to_owned(), String::new()), "{wanted}");
    }
    let all = "p0 (1/TCP) p1 (2, 30001/TCP) p2 (3/TCP)";
    assert_eq!(of_port("4"), (String::new(), all.to_owned()));
}

/// The ports of the slices are read a fixed number of times, not once for each port of the service.
#[test]
fn the_work_grows_with_the_number_of_ports_and_not_with_its_square() {
    let read = |ports: u16| {
        let (of, slice) = large(ports, 1);
        let before = SlicePorts::ports_read();
        explain(&of, &[slice]);
        SlicePorts::ports_read() - before
    };
    assert_eq!((read(10), read(1000)), (2 * 10, 2 * 1000));
}
