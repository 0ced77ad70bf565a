//! The index against the pure planner, on random objects and random orders.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::model::{
    event::{Event, Sourced},
    object::{Endpoint, EndpointSlice, Family, Object, Protocol, TrafficPolicy},
    plan::{self, FrontendAddress, Plan, ServicePlan},
    planner,
    testing::{endpoint, endpoint_port, ip, node, service, service_port, slice, sourced},
};

/// Of every service that has one.
const NODE_PORT: u16 = 30080;

/// Few names and addresses, so that objects meet: same service, same slice, same address.
fn any_service() -> impl Strategy<Value = Service> {
    (
        select(&["a", "b", "c"][..]),
        select(&["10.96.0.1", "10.96.0.2", "fd00::1"][..]),
        proptest::option::of(0..2_i64),
        any::<[bool; 6]>(),
        any::<[bool; 4]>(),
    )
        .prop_map(
            |(name, cluster_ip, created, bits, [external_local, sticky, high, udp_node_port])| {
                let [dual, external, local, node_port, udp, lb] = bits;
                let uid = created.map(|created| created.to_string().into());
                let mut service = Service { created, uid, ..service(name, cluster_ip) };
                service.close_on_removal = local.then_some(Duration::from_secs(1));
                if dual && cluster_ip != "fd00::1" {
                    service.cluster_ips.push(ip("fd00::2"));
                }
                if external {
                    // Its own twice, and another service's cluster IP.
                    service.external_ips =
                        ["198.51.100.1", "198.51.100.1", "10.96.0.2"].map(ip).into();
                }
                if local {
                    service.internal_traffic_policy = TrafficPolicy::Local;
                }
                if external_local {
                    service.external_traffic_policy = TrafficPolicy::Local;
                }
                service.affinity_seconds = sticky.then_some(60);
                if udp {
                    let mut port = service_port("dns", Protocol::Udp, 80);
                    port.node_port = udp_node_port.then_some(NODE_PORT);
                    service.ports.push(port);
                }
                // An external IP that is another node's address, with a port that is a node port.
                if high {
                    service.ports.push(service_port("high", Protocol::Tcp, NODE_PORT));
                }
                // Also without node ports, as with `allocateLoadBalancerNodePorts: false`.
                if lb {
                    service.load_balancer_ips = vec![ip("198.51.100.1"), ip("203.0.113.1")];
                    service.source_ranges = [udp, dual];
                }
                service.ports[0].node_port = node_port.then_some(NODE_PORT);
                service
            },
        )
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (
        select(&["10.0.0.1", "10.0.0.2", "10.0.0.3"][..]),
        select(&[None, Some("here"), Some("there")][..]),
        select(&[None, Some("zone-1"), Some("zone-2")][..]),
        select(&[None, Some("here"), Some("there")][..]),
        0..6,
    )
        .prop_map(|(address, on, zone, hint, state)| {
            let endpoint = endpoint(address).for_zones(zone.as_slice()).for_nodes(hint.as_slice());
            let endpoint = on.map_or(endpoint.clone(), |node| endpoint.on(node));
            match state {
                0 => endpoint.draining(),
                1 => endpoint.unready(),
                2 => Endpoint { serving: false, ..endpoint.draining() },
                3 => Endpoint { serving: true, ..endpoint.unready() },
                _ => endpoint,
            }
        })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoints = vec(any_endpoint(), 0..6);
    let ports = vec((select(&["http", "dns"][..]), any::<bool>(), 8080..8082_u16), 0..3);
    (select(&["s1", "s2", "s3", "s4"][..]), select(&["a", "b", "c"][..]), endpoints, ports)
        .prop_map(|(name, service, endpoints, ports)| {
            let mut slice = slice(name, service, endpoints);
            slice.ports.extend(ports.into_iter().map(|(name, udp, port)| {
                endpoint_port(name, if udp { Protocol::Udp } else { Protocol::Tcp }, port)
            }));
            slice
        })
}

fn any_node() -> impl Strategy<Value = Node> {
    let zone = select(&[None, Some("zone-1"), Some("zone-2")][..]);
    // One is also an external IP of services; two nodes may have the same.
    let addresses = vec(select(&["198.51.100.1", "192.0.2.1", "fd00::7"][..]), 0..3);
    (select(&["here", "there", "elsewhere"][..]), zone, addresses).prop_map(
        |(name, zone, addresses)| Node {
            addresses: addresses.into_iter().map(ip).collect(),
            ..node(name, zone)
        },
    )
}

fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        any_service().prop_map(Object::Service),
        any_slice().prop_map(Object::EndpointSlice),
        any_node().prop_map(Object::Node),
    ]
}

fn any_sourced() -> impl Strategy<Value = Sourced> {
    (any_object(), 0..8).prop_map(|(object, state)| match state {
        0 => sourced(object).with_problem("spec"),
        1 => sourced(object).with_problem("spec").unusable(),
        _ => sourced(object),
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any_sourced().prop_map(Event::Apply),
        2 => any_object().prop_map(|object| Event::Delete(object.reference())),
        1 => (select(&Kind::ALL[..]), vec(any_sourced(), 0..8)).prop_map(|(kind, objects)| {
            let of_kind: BTreeMap<ObjectRef, Sourced> = objects
                .into_iter()
                .filter(|sourced| sourced.reference.kind == kind)
                .map(|sourced| (sourced.reference.clone(), sourced))
                .collect();
            Event::Replace(kind, of_kind.into_values().collect())
        }),
    ]
}

/// The objects as they were last reported: all that the index may depend on.
#[derive(Default)]
struct Held(BTreeMap<ObjectRef, Sourced>);

impl Held {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Apply(sourced) => {
                self.0.insert(sourced.reference.clone(), sourced.clone());
            }
            Event::Delete(reference) => {
                self.0.remove(reference);
            }
            Event::Replace(kind, objects) => {
                self.0.retain(|held, _| held.kind != *kind);
                self.0.extend(objects.iter().map(|o| (o.reference.clone(), o.clone())));
            }
            Event::SourceErrors(_) | Event::Complete(_) => {}
        }
    }

    fn plan(&self) -> (Plan, Vec<InputError>) {
        plan(self.0.values().filter_map(|sourced| sourced.object.as_ref()))
    }

    /// The services that exist and of which an object cannot be used.
    fn retained(&self) -> BTreeSet<ObjectName> {
        let exists = |service: &ObjectName| {
            self.0.contains_key(&ObjectRef { kind: Kind::Service, name: service.clone() })
        };
        self.0.values().filter_map(Sourced::retains).filter(exists).collect()
    }

    /// What an agent knows that starts now, of lists in any order.
    fn start(&self, scope: NodePortScope, shuffle: &[usize]) -> Index {
        let mut index = Index::new("here").with_node_ports(scope);
        for kind in Kind::ALL {
            let of_kind = self.0.values().filter(|o| o.reference.kind == kind).cloned();
            index.apply(Event::Replace(kind, shuffled(of_kind.collect(), shuffle)));
        }
        index
    }
}

/// By some numbers, the same for the same.
fn shuffled<T>(mut things: Vec<T>, numbers: &[usize]) -> Vec<T> {
    for (i, number) in (1..things.len()).zip(numbers.iter().cycle()) {
        things.swap(i, number % (i + 1));
    }
    things
}

fn plan<'a>(objects: impl Iterator<Item = &'a Object>) -> (Plan, Vec<InputError>) {
    let (mut services, mut slices, mut nodes) = (vec![], vec![], vec![]);
    for object in objects {
        match object {
            Object::Service(service) => services.push(service),
            Object::EndpointSlice(slice) => slices.push(slice),
            Object::Node(node) => nodes.push(node),
            Object::Namespace(_) | Object::Pod(_) => {}
        }
    }
    planner::plan(services, slices, nodes, "here")
}

/// Who answers an address.
type Owners = BTreeMap<(FrontendAddress, Family, u16, Protocol), ObjectName>;

fn owners<'a>(frontends: impl IntoIterator<Item = &'a Arc<Frontend>>) -> Owners {
    frontends
        .into_iter()
        .map(|f| ((f.address, f.family, f.port, f.protocol), f.service.clone()))
        .collect()
}

/// What the kernel has when parts of a plan are written to it: first what a part has, then what it
/// has no longer, unless another service has it by then.
#[derive(Default)]
struct Kernel {
    parts: BTreeMap<ObjectName, Vec<Arc<Frontend>>>,
    owners: Owners,
}

impl Kernel {
    /// Fails if one of `steady` has no owner at any moment.
    fn write(&mut self, batch: &[ServicePlan], steady: &Owners) -> Result<(), TestCaseError> {
        let mut leftovers = Vec::new();
        for part in batch {
            let wanted = owners(&part.frontends);
            let before = self.parts.insert(part.service.clone(), part.frontends.clone());
            let gone = owners(before.iter().flatten()).into_keys();
            leftovers.extend(
                gone.filter(|claim| !wanted.contains_key(claim))
                    .map(|claim| (claim, &part.service)),
            );
            self.owners.extend(wanted);
        }
        for (claim, service) in leftovers {
            if self.owners.get(&claim) == Some(service) {
                self.owners.remove(&claim);
                prop_assert!(!steady.contains_key(&claim), "no service has {claim:?}");
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_stream_of_changes_gives_the_plan_of_what_is_left(events in vec(any_event(), 0..40)) {
        let mut index = Index::new("here");
        let mut held = Held::default();
        for event in events {
            held.apply(&event);
            index.apply(event);
            prop_assert_eq!(index.plan(), held.plan().0);
            prop_assert_eq!(index.retained(), &held.retained());
        }
        let conflicts: Vec<_> = held.plan().1.into_iter().filter(|p| p.object.starts_with("Service")).collect();
        let problems = index.problems();
        prop_assert!(conflicts.iter().all(|p| problems.contains(p)), "{problems:#?}");
    }

    /// Whatever happened before, and in whatever order slices, endpoints and ports are.
    #[test]
    fn a_history_leaves_what_a_start_with_the_objects_that_are_left_makes(
        events in vec(any_event(), 0..40),
        look in vec(any::<bool>(), 40),
        numbers in vec(0..1000_usize, 1..8),
        scope in select(&[NodePortScope::ThisNode, NodePortScope::AllNodes][..]),
    ) {
        let mut index = Index::new("here").with_node_ports(scope);
        let mut held = Held::default();
        for (event, look) in events.into_iter().zip(look) {
            held.apply(&event);
            index.apply(event);
            if look {
                index.changes_except(|service| &*service.name == "a");
            }
        }
        for kind in Kind::ALL {
            // Both know that all kinds were listed.
            let of_kind = held.0.values().filter(|o| o.reference.kind == kind).cloned();
            index.apply(Event::Replace(kind, of_kind.collect()));
        }
        let plan = index.plan();
        for sourced in held.0.values_mut() {
            match &mut sourced.object {
                Some(Object::EndpointSlice(slice)) => {
                    slice.endpoints = shuffled(std::mem::take(&mut slice.endpoints), &numbers);
                    slice.ports = shuffled(std::mem::take(&mut slice.ports), &numbers);
                }
                Some(Object::Service(service)) => {
                    service.ports = shuffled(std::mem::take(&mut service.ports), &numbers);
                }
                _ => {}
            }
        }
        let mut fresh = held.start(scope, &numbers);
        prop_assert_eq!(plan, fresh.plan());
        prop_assert_eq!(index.retained(), fresh.retained());
        prop_assert_eq!(index.problems(), fresh.problems());
        prop_assert_eq!(&index.excluded_pods(&Policy::default()), &fresh.excluded_pods(&Policy::default()));
        for service in ["a", "b", "c"].map(|service| ObjectName::new("ns", service)) {
            let serving = |index: &Index| index.serving(&service, "http", Protocol::Tcp);
            prop_assert_eq!(serving(&index), serving(&fresh));
            prop_assert_eq!(index.close_on_removal(&service), fresh.close_on_removal(&service));
        }
    }

    #[test]
    fn planning_rarely_gives_the_same_as_planning_after_every_change(
        events in vec(any_event(), 0..40),
    ) {
        let (mut eager, mut lazy) = (Index::new("here"), Index::new("here"));
        for event in events {
            eager.apply(event.clone());
            eager.plan();
            lazy.apply(event);
        }
        prop_assert_eq!(eager.plan(), lazy.plan());
        prop_assert_eq!(eager.problems(), lazy.problems());
    }

    #[test]
    fn the_order_of_the_objects_does_not_matter(
        (objects, shuffled) in vec(any_object(), 0..12)
            .prop_map(|objects| {
                let unique: BTreeMap<_, _> =
                    objects.into_iter().map(|object| (object.reference(), object)).collect();
                unique.into_values().collect::<Vec<_>>()
            })
            .prop_flat_map(|objects| (Just(objects.clone()), Just(objects).prop_shuffle())),
    ) {
        prop_assert_eq!(plan(objects.iter()), plan(shuffled.iter()));
    }

    #[test]
    fn the_changes_add_up_to_the_plan(
        steps in vec((any_event(), any::<bool>(), any::<bool>()), 0..40),
    ) {
        let mut index = Index::new("here");
        let mut parts = BTreeMap::new();
        for (event, look, one_waits) in steps {
            index.apply(event);
            if look {
                let later = |service: &ObjectName| one_waits && &*service.name == "a";
                let changes = index.changes_except(later);
                for part in changes.services {
                    parts.insert(part.service, part.frontends);
                }
            }
        }
        parts.extend(index.changes().services.into_iter().map(|part| (part.service, part.frontends)));
        let sum: Vec<_> = parts.into_values().flatten().collect();
        prop_assert_eq!(sum, index.plan().frontends);
    }

    #[test]
    fn an_address_has_one_owner_at_any_time_and_loses_it_for_good_whatever_is_throttled(
        steps in vec((vec(any_event(), 1..4), select(&[0b000, 0b001, 0b010, 0b110, 0b111][..])), 0..30),
    ) {
        let mut index = Index::new("here");
        let mut held = Held::default();
        let mut kernel = Kernel::default();
        for (events, waiting) in steps {
            for event in events {
                held.apply(&event);
                index.apply(event);
            }
            let waits = |service: &ObjectName| {
                waiting & (1 << (service.name.as_bytes()[0] - b'a')) != 0
            };
            let mut steady = kernel.owners.clone();
            let target = owners(&held.plan().0.frontends);
            steady.retain(|claim, _| target.contains_key(claim));
            let changes = index.changes_except(waits);
            if changes.addresses_moved {
                prop_assert!(!index.has_waiting());
                kernel.write(&changes.services, &steady)?;
            } else {
                for part in &changes.services {
                    prop_assert!(!waits(&part.service));
                    kernel.write(std::slice::from_ref(part), &steady)?;
                }
            }
            let sum: Vec<_> = kernel.parts.values().flatten().cloned().collect();
            prop_assert_eq!(owners(&sum).len(), sum.len(), "an address of two services");
            prop_assert_eq!(&owners(&sum), &kernel.owners);
            prop_assert_eq!(&sum, &index.planned().frontends);
        }
        kernel.write(&index.changes().services, &Owners::new())?;
        prop_assert_eq!(kernel.owners, owners(&held.plan().0.frontends));
    }

    #[test]
    fn planning_again_gives_the_same_allocations(events in vec(any_event(), 0..20)) {
        let mut index = Index::new("here");
        events.into_iter().for_each(|event| index.apply(event));
        let (first, second) = (index.plan(), index.plan());
        prop_assert_eq!(&first, &second);
        let mut pairs = first.frontends.iter().zip(&second.frontends);
        prop_assert!(pairs.all(|(a, b)| Arc::ptr_eq(a, b)));
    }

    #[test]
    fn a_plan_is_sorted_and_answers_every_address_once(objects in vec(any_object(), 0..20)) {
        let unique: BTreeMap<_, _> =
            objects.into_iter().map(|object| (object.reference(), object)).collect();
        let (plan, _) = plan(unique.values());
        let order = |f: &Arc<Frontend>| {
            (f.service.clone(), f.port_name.clone(), f.family, f.address, f.port, f.protocol)
        };
        prop_assert!(plan.frontends.is_sorted_by_key(order));
        let claims: HashSet<_> =
            plan.frontends.iter().map(|f| (f.address, f.family, f.port, f.protocol)).collect();
        prop_assert_eq!(claims.len(), plan.frontends.len());
        for f in &plan.frontends {
            prop_assert!(f.backends.is_sorted_by(|a, b| (a.address, a.port) < (b.address, b.port)));
            prop_assert_eq!(f.backends.is_empty(), f.action != plan::Action::Forward);
            prop_assert_eq!(f.reason.is_none(), f.action == plan::Action::Forward);
        }
    }
}
