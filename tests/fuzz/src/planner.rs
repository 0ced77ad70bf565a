//! The planner: any sequence of changes, with plans in between.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arbitrary::{Arbitrary as _, Result, Unstructured};
use sockline::model::{
    event::{Event, Sourced},
    index::{Changes, Index},
    object::{
        Endpoint, EndpointPort, EndpointSlice, Family, Hints, Kind, Node, Object, ObjectName,
        ObjectRef, Protocol, Redirect, Service, ServicePort, TrafficPolicy,
    },
    plan::{Frontend, Plan},
    planner,
};

use crate::invariants;

const NODE: &str = "node-a";

/// Applies changes in the order of the input and plans between them. In the end the plan is the one of
/// all objects at once, in any order, and the one that the changes given out add up to.
pub fn run(data: &[u8]) {
    // An input that is used up ends the sequence.
    let _ = play(&mut Unstructured::new(data));
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let mut index = Index::new(NODE);
    let mut objects: BTreeMap<ObjectRef, Object> = BTreeMap::new();
    let mut given_out: BTreeMap<ObjectName, Vec<Arc<Frontend>>> = BTreeMap::new();
    let mut changes = 0;
    while changes < 64 && !u.is_empty() {
        changes += 1;
        match u.int_in_range(0..=9)? {
            0..=5 => {
                let Ok(object) = object(u) else { break };
                objects.insert(object.reference(), object.clone());
                index.apply(Event::Apply(sourced(object)));
            }
            6 => {
                let kind = kind(u)?;
                let reference = ObjectRef { kind, name: name(u, kind)? };
                objects.remove(&reference);
                index.apply(Event::Delete(reference));
            }
            7 => {
                let kind = kind(u)?;
                let mut all = Vec::new();
                for _ in 0..u.int_in_range(0..=3)? {
                    let Ok(object) = object(u) else { break };
                    if object.reference().kind == kind {
                        all.push(object);
                    }
                }
                objects.retain(|reference, _| reference.kind != kind);
                objects.extend(all.iter().map(|object| (object.reference(), object.clone())));
                index.apply(Event::Replace(kind, all.into_iter().map(sourced).collect()));
            }
            8 => take(&mut given_out, index.changes()),
            _ => {
                let later = bool::arbitrary(u)?;
                take(
                    &mut given_out,
                    index.changes_except(|service| later && &*service.name == "a"),
                );
            }
        }
    }
    take(&mut given_out, index.changes());
    let planned = index.planned();
    assert_eq!(grouped(&planned), given_out, "the changes given out add up to another plan");
    let plan = index.plan();
    invariants::plan(&plan);
    invariants::input_errors(&index.input_errors());
    assert_eq!(plan, planned);
    assert_eq!(plan, at_once(&objects), "another plan than that of all objects at once");
    // Backwards is as far from the order of the input as it gets.
    let mut other = Index::new(NODE);
    for object in objects.values().rev() {
        other.apply(Event::Apply(sourced(object.clone())));
    }
    assert_eq!(plan, other.plan(), "another plan in another order");
    Ok(())
}

fn take(given_out: &mut BTreeMap<ObjectName, Vec<Arc<Frontend>>>, changes: Changes) {
    for change in changes.services {
        if change.frontends.is_empty() {
            given_out.remove(&change.service);
        } else {
            given_out.insert(change.service, change.frontends);
        }
    }
}

fn grouped(plan: &Plan) -> BTreeMap<ObjectName, Vec<Arc<Frontend>>> {
    let services = plan.frontends.chunk_by(|a, b| a.service == b.service);
    services.map(|frontends| (frontends[0].service.clone(), frontends.to_vec())).collect()
}

fn at_once(objects: &BTreeMap<ObjectRef, Object>) -> Plan {
    let (mut services, mut slices, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects.values() {
        match object {
            Object::Service(service) => services.push(service),
            Object::EndpointSlice(slice) => slices.push(slice),
            Object::Node(node) => nodes.push(node),
            Object::Namespace(_) | Object::Pod(_) => {}
        }
    }
    planner::plan(services, slices, nodes, NODE).0
}

fn sourced(object: Object) -> Sourced {
    let reference = object.reference();
    Sourced { reference, object: Some(object), service: None, input_errors: Vec::new() }
}

fn kind(u: &mut Unstructured<'_>) -> Result<Kind> {
    u.choose(&[Kind::Service, Kind::EndpointSlice, Kind::Node]).copied()
}

fn short(u: &mut Unstructured<'_>) -> Result<&'static str> {
    u.choose(&["a", "b", "c"]).copied()
}

fn name(u: &mut Unstructured<'_>, kind: Kind) -> Result<ObjectName> {
    Ok(match kind {
        Kind::Node => ObjectName::new("", u.choose(&[NODE, "b"]).copied()?),
        _ => ObjectName::new(u.choose(&["x", "y"]).copied()?, short(u)?),
    })
}

fn object(u: &mut Unstructured<'_>) -> Result<Object> {
    let kind = kind(u)?;
    let name = name(u, kind)?;
    Ok(match kind {
        Kind::Service => Object::Service(service(u, name)?),
        Kind::EndpointSlice => Object::EndpointSlice(slice(u, name)?),
        _ => Object::Node(Node {
            name: name.name,
            zone: if u.arbitrary()? { Some(zone(u)?) } else { None },
            addresses: Vec::new(),
        }),
    })
}

fn several<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| one(u)).collect()
}

fn address(u: &mut Unstructured<'_>) -> Result<IpAddr> {
    let family = *u.choose(&Family::ALL)?;
    address_of(u, family)
}

fn address_of(u: &mut Unstructured<'_>, family: Family) -> Result<IpAddr> {
    let number = u.int_in_range(1..=6)?;
    Ok(match family {
        Family::IPv4 => Ipv4Addr::new(10, 0, 0, number).into(),
        Family::IPv6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    })
}

fn protocol(u: &mut Unstructured<'_>) -> Result<Protocol> {
    u.choose(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]).copied()
}

fn policy(u: &mut Unstructured<'_>) -> Result<TrafficPolicy> {
    Ok(if bool::arbitrary(u)? { TrafficPolicy::Local } else { TrafficPolicy::Cluster })
}

fn zone(u: &mut Unstructured<'_>) -> Result<Arc<str>> {
    Ok(Arc::from(*u.choose(&["z1", "z2"])?))
}

fn service(u: &mut Unstructured<'_>, name: ObjectName) -> Result<Service> {
    let mut cluster_ips = several(u, 2, address)?;
    cluster_ips.dedup_by_key(|ip| Family::of(*ip));
    let mut ports: Vec<ServicePort> = several(u, 3, |u| {
        Ok(ServicePort {
            name: short(u)?.into(),
            protocol: protocol(u)?,
            port: u.int_in_range(1..=4)?,
            node_port: Option::<bool>::arbitrary(u)?.map(|one| if one { 30000 } else { 30001 }),
        })
    })?;
    // As conversion leaves them: distinguished by name and protocol.
    ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    ports.dedup_by(|a, b| a.name == b.name && a.protocol == b.protocol);
    Ok(Service {
        name,
        uid: None,
        created: Option::<bool>::arbitrary(u)?.map(i64::from),
        cluster_ips,
        external_ips: several(u, 2, address)?,
        load_balancer_ips: several(u, 2, address)?,
        source_ranges: [bool::arbitrary(u)?, bool::arbitrary(u)?],
        ports,
        internal_traffic_policy: policy(u)?,
        external_traffic_policy: policy(u)?,
        affinity_seconds: Option::<bool>::arbitrary(u)?.map(|one| if one { 1 } else { 86_400 }),
        redirect: if u.ratio(1, 8)? { Redirect::Disabled } else { Redirect::Enabled },
        // Says nothing of the plan.
        close_on_removal: None,
    })
}

fn slice(u: &mut Unstructured<'_>, name: ObjectName) -> Result<EndpointSlice> {
    let family = *u.choose(&Family::ALL)?;
    Ok(EndpointSlice {
        name,
        service: short(u)?.into(),
        family,
        ports: several(u, 3, |u| {
            Ok(EndpointPort {
                name: short(u)?.into(),
                protocol: protocol(u)?,
                port: u.int_in_range(8080..=8083)?,
            })
        })?,
        endpoints: several(u, 5, |u| endpoint(u, family))?,
        triggered: None,
    })
}

fn endpoint(u: &mut Unstructured<'_>, family: Family) -> Result<Endpoint> {
    let hints = Hints {
        zones: several(u, 2, zone)?.into_iter().collect(),
        nodes: several(u, 1, |u| short(u).map(Arc::from))?.into_iter().collect(),
    };
    Ok(Endpoint {
        address: address_of(u, family)?,
        node: u.choose(&[None, Some(NODE), Some("b")])?.map(Into::into),
        zone: if u.arbitrary()? { Some(zone(u)?) } else { None },
        ready: bool::arbitrary(u)?,
        serving: bool::arbitrary(u)?,
        terminating: bool::arbitrary(u)?,
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
    })
}

/// Bytes without a plan: the input is choices, not text.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (1..=32).map(|length| (0..length * 64).map(|_| byte()).collect()).collect()
}
