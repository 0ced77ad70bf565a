//! Several endpoints at one address and port: what kube-proxy makes of them, and what the planner does.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::model::testing::{endpoint, slice, texts};

const HERE: ThisNode<'_> = ThisNode { name: "here", zone: Some("zone-1") };
const ADDRESS: &str = "10.0.0.1";

/// What policies Cluster and Local draw from.
type Chosen = [Vec<String>; 2];

/// Each endpoint in a slice of its own.
fn planned(endpoints: &[Endpoint]) -> Chosen {
    let slices: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(i, endpoint)| slice(&format!("s-{i}"), "web", vec![endpoint.clone()]))
        .collect();
    chosen(&slices)
}

fn chosen(slices: &[EndpointSlice]) -> Chosen {
    let ports = SlicePorts::of(slices);
    let candidates = candidates(&ports.with(Family::IPv4, "http", Protocol::Tcp), HERE);
    [TrafficPolicy::Cluster, TrafficPolicy::Local]
        .map(|policy| texts(&super::chosen(policy, &candidates, HERE)))
}

/// `addEndpoints` of kube-proxy 1.36 on endpoints in this order: a copy replaces the one before if it is
/// not terminating.
fn kube_proxy(endpoints: &[Endpoint]) -> Chosen {
    let mut set: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        match set.iter_mut().find(|known| known.address == endpoint.address) {
            None => set.push(endpoint.clone()),
            Some(known) if !endpoint.terminating => *known = endpoint.clone(),
            Some(_) => {}
        }
    }
    planned(&set)
}

fn permutations(endpoints: &[Endpoint]) -> Vec<Vec<Endpoint>> {
    if endpoints.is_empty() {
        return vec![vec![]];
    }
    let first_is = |i: usize| {
        let mut rest = endpoints.to_vec();
        let first = rest.remove(i);
        permutations(&rest).into_iter().map(move |rest| [vec![first.clone()], rest].concat())
    };
    (0..endpoints.len()).flat_map(first_is).collect()
}

fn at() -> Endpoint {
    endpoint(ADDRESS)
}

/// Terminating, and serves no more.
fn gone() -> Endpoint {
    Endpoint { serving: false, ..at().draining() }
}

/// Serves, but is not to get traffic.
fn serving() -> Endpoint {
    Endpoint { serving: true, ..at().unready() }
}

#[test]
fn of_endpoints_at_one_address_the_one_counts_that_kube_proxy_takes() {
    // Copies; whether policy Cluster draws the address; whether policy Local does.
    let cases: &[(&str, Vec<Endpoint>, bool, bool)] = &[
        ("ready over terminating", vec![at(), gone()], true, false),
        ("ready over draining", vec![at(), at().draining()], true, false),
        ("ready over terminating ones", vec![gone(), at(), at().draining()], true, false),
        ("ready elsewhere over draining here", vec![at(), at().draining().on("here")], true, false),
        ("ready elsewhere over gone here", vec![at().on("there"), gone().on("here")], true, false),
        ("ready here over draining elsewhere", vec![at().on("here"), at().draining()], true, true),
        ("unready over draining", vec![at().unready(), at().draining()], false, false),
        (
            "unready elsewhere over draining here",
            vec![at().unready(), at().draining().on("here")],
            false,
            false,
        ),
        // From here on kube-proxy's own result depends on the order.
        ("ready over unready", vec![at(), at().unready()], true, false),
        ("ready elsewhere over unready here", vec![at(), at().unready().on("here")], true, false),
        ("ready over serving", vec![serving(), at(), serving()], true, false),
        (
            "ready here over ready elsewhere",
            vec![at().on("there"), at().on("here"), at()],
            true,
            true,
        ),
        ("draining over gone", vec![gone(), at().draining()], true, false),
        (
            "draining elsewhere over gone here",
            vec![gone().on("here"), at().draining()],
            true,
            false,
        ),
        (
            "draining here over elsewhere",
            vec![at().draining(), at().draining().on("here")],
            true,
            true,
        ),
        ("the same thrice", vec![at(), at(), at()], true, false),
    ];
    for (rule, endpoints, cluster, local) in cases {
        let expected = [*cluster, *local].map(|is_drawn| match is_drawn {
            true => vec![format!("{ADDRESS}:8080")],
            false => vec![],
        });
        let possible: BTreeSet<_> =
            permutations(endpoints).iter().map(|order| kube_proxy(order)).collect();
        assert!(possible.contains(&expected), "{rule}: kube-proxy gives one of {possible:?}");
        for order in permutations(endpoints) {
            assert_eq!(planned(&order), expected, "{rule}: {order:#?}");
        }
    }
}

#[test]
fn of_copies_that_differ_in_hints_alone_one_counts_whatever_the_order() {
    let copies = [
        at(),
        at().for_zones(&["zone-1"]),
        at().for_zones(&["zone-2"]),
        at().for_nodes(&["here"]),
        at().for_nodes(&["there"]).for_zones(&["zone-1"]),
    ];
    let other = endpoint("10.0.0.2").for_zones(&["zone-1"]).for_nodes(&["there"]);
    for two in copies.iter().flat_map(|a| copies.iter().map(move |b| [a.clone(), b.clone()])) {
        let both = [two.to_vec(), vec![other.clone()]].concat();
        let plans: BTreeSet<_> = permutations(&both).iter().map(|order| planned(order)).collect();
        assert_eq!(plans.len(), 1, "{two:#?}: {plans:?}");
    }
}

const ZONES: &[&[&str]] = &[&[], &["zone-1"], &["zone-2"], &["zone-1", "zone-2"]];

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (
        select(&[ADDRESS, "10.0.0.2"][..]),
        select(&[None, Some("here"), Some("there")][..]),
        select(ZONES),
        select(&[None, Some("here"), Some("there")][..]),
        any::<[bool; 3]>(),
    )
        .prop_map(|(address, on, zones, hint, [ready, serving, terminating])| Endpoint {
            node: on.map(Into::into),
            ready,
            serving,
            terminating,
            ..endpoint(address).for_zones(zones).for_nodes(hint.as_slice())
        })
}

proptest! {
    /// Every order gives the same, and it is what kube-proxy may give: with one order of the endpoints,
    /// and so exactly that where it is defined. Beyond that a copy which serves is preferred to one
    /// that does not, where kube-proxy's choice is the order's.
    #[test]
    fn duplicates_are_chosen_from_as_kube_proxy_does_in_one_order_and_here_in_every(
        endpoints in vec(any_endpoint(), 0..5),
    ) {
        let orders = permutations(&endpoints);
        let possible: BTreeSet<_> = orders.iter().map(|order| kube_proxy(order)).collect();
        let result = planned(&endpoints);
        prop_assert!(possible.contains(&result), "{result:?} is not among {possible:?}");
        for order in &orders {
            prop_assert_eq!(&planned(order), &result);
            // The same endpoints in one slice, and in two.
            let (first, second) = order.split_at(order.len() / 2);
            let [first, second] = [("s-1", first), ("s-2", second)]
                .map(|(name, part)| slice(name, "web", part.to_vec()));
            prop_assert_eq!(&chosen(&[slice("s", "web", order.clone())]), &result);
            prop_assert_eq!(&chosen(&[first, second]), &result);
        }
    }
}
