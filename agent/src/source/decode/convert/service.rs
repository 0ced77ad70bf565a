//! Service: its addresses, ports and policies.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Convert, close_on_removal, is_foreign, redirect};
use crate::source::decode::validate::Checker;
use crate::{
    model::limits,
    model::object::{Family, Object, Service, ServicePort},
    source::Sourced,
};

/// What the API server fills in: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// The API's limit: one day.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

pub(super) fn convert(service: &api::Service) -> Option<Sourced> {
    let default = api::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    if is_foreign(&service.metadata) || is_without_address(spec) {
        return None;
    }
    let mut checker = Checker::new(service.reference());
    if !checker.names_are_valid() {
        return Some(checker.finish(None));
    }
    let cluster_ips = cluster_ips(&mut checker, spec);
    let external_ips = addresses(&mut checker, "spec.externalIPs", spec.external_ips.as_deref());
    let load_balancer_ips = load_balancer_ips(&mut checker, service);
    // Where a port answers: there, and in each family at its node port if there are any.
    let has_node_ports = spec.ports.iter().flatten().any(|port| port.node_port.is_some());
    let places = cluster_ips.len() * (1 + usize::from(has_node_ports))
        + external_ips.len()
        + load_balancer_ips.len();
    let ports = ports(&mut checker, spec, places);
    let object = Service {
        name: checker.reference().name.clone(),
        uid: service.metadata.uid.as_deref().filter(|uid| !uid.is_empty()).map(Into::into),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        source_ranges: source_ranges(&mut checker, spec),
        internal_traffic_policy: checker
            .traffic_policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external_traffic_policy: checker
            .traffic_policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
        affinity_seconds: affinity_seconds(&mut checker, spec),
        redirect: redirect::of_service(&mut checker, &service.metadata).unwrap_or_default(),
        close_on_removal: close_on_removal::of_service(&mut checker, &service.metadata),
        cluster_ips,
        external_ips,
        load_balancer_ips,
        ports,
    };
    let usable = !object.cluster_ips.is_empty() && !object.ports.is_empty();
    Some(checker.finish(usable.then_some(Object::Service(object))))
}

/// ExternalName and headless services, and those that have no address yet.
fn is_without_address(spec: &api::ServiceSpec) -> bool {
    let given = |ip: Option<&str>| !matches!(ip, None | Some("" | "None"));
    let cluster_ip = spec.cluster_ip.as_deref();
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).map(String::as_str);
    spec.type_.as_deref() == Some("ExternalName")
        || cluster_ip == Some("None")
        || !(given(cluster_ip) || given(first))
}

/// One per family: the first of it.
fn cluster_ips(checker: &mut Checker, spec: &api::ServiceSpec) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    match spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()) {
        Some(ips) => {
            for (i, text) in ips.iter().enumerate() {
                let field = format!("spec.clusterIPs[{i}]");
                let Some(ip) = checker.address(&field, text, None) else { continue };
                let family = Family::of(ip);
                if found.iter().any(|other| Family::of(*other) == family) {
                    checker
                        .problem(field, format!("{ip}: a second {family} address; it is left out"));
                } else {
                    found.push(ip);
                }
            }
        }
        None => {
            let text = spec.cluster_ip.as_deref().unwrap_or("");
            found.extend(checker.address("spec.clusterIP", text, None));
        }
    }
    if found.is_empty() {
        checker.problem("spec.clusterIPs", "no valid address; the service is left out");
    }
    found
}

fn ports(checker: &mut Checker, spec: &api::ServiceSpec, places: usize) -> Vec<ServicePort> {
    let mut names = HashSet::new();
    let mut ports = Vec::new();
    let all = spec.ports.as_deref().unwrap_or(&[]);
    let all = checker.first_of("spec.ports", all, limits::FRONTENDS / places.max(1));
    for (i, port) in all.iter().enumerate() {
        let Some(port) = convert_port(checker, i, port) else { continue };
        // kube-proxy tells a service's ports apart by name and protocol.
        if names.insert((port.name.clone(), port.protocol)) {
            ports.push(port);
        } else {
            checker.problem(
                format!("spec.ports[{i}].name"),
                format!("{:?} is the name of an earlier port; the port is left out", &*port.name),
            );
        }
    }
    if ports.is_empty() {
        checker.problem("spec.ports", "no valid port; the service is left out");
    }
    ports
}

fn convert_port(checker: &mut Checker, i: usize, port: &api::ServicePort) -> Option<ServicePort> {
    let field = |name: &str| format!("spec.ports[{i}].{name}");
    let name = checker.port_name(&field("name"), port.name.as_deref())?;
    let protocol = checker.protocol(&field("protocol"), port.protocol.as_deref())?;
    let number = checker.port(&field("port"), port.port)?;
    // 0 is what Go programs write for "none".
    let node_port = match port.node_port.filter(|number| *number != 0) {
        Some(number) => checker.port(&field("nodePort"), number),
        None => None,
    };
    Some(ServicePort { name: name.into(), protocol, port: number, node_port })
}

fn addresses(checker: &mut Checker, field: &str, texts: Option<&[String]>) -> Vec<IpAddr> {
    let texts = checker.first_of(field, texts.unwrap_or(&[]), limits::ADDRESSES).iter().enumerate();
    texts.filter_map(|(i, text)| checker.claimed_address(&format!("{field}[{i}]"), text)).collect()
}

/// The addresses that are the load balancer's own on every node. With ipMode Proxy traffic has to
/// go through the load balancer, and entries with only a host name have no address.
fn load_balancer_ips(checker: &mut Checker, service: &api::Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|status| status.ingress.as_deref()).unwrap_or(&[]);
    let all = checker.first_of("status.loadBalancer.ingress", all, limits::ADDRESSES);
    let mut ips = Vec::new();
    for (i, ingress) in all.iter().enumerate() {
        let is_vip = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        if let Some(ip) = ingress.ip.as_deref().filter(|ip| is_vip && !ip.is_empty()) {
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            ips.extend(checker.claimed_address(&field, ip));
        }
    }
    ips
}

/// Which families have source ranges. One that cannot be read is taken to restrict both: the
/// addresses are then left to kube-proxy, never opened by a typo.
fn source_ranges(checker: &mut Checker, spec: &api::ServiceSpec) -> [bool; 2] {
    let mut families = [false; 2];
    for (i, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        // The API's validation lets surrounding blanks pass.
        match text.trim().parse::<IpNet>() {
            Ok(range) => families[Family::of(range.addr()) as usize] = true,
            Err(_) => {
                families = [true; 2];
                checker.problem(
                    format!("spec.loadBalancerSourceRanges[{i}]"),
                    format!(
                        "{text:?} is not an address range; \
                         the load-balancer addresses are left to kube-proxy"
                    ),
                );
            }
        }
    }
    families
}

fn affinity_seconds(checker: &mut Checker, spec: &api::ServiceSpec) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            checker.problem(
                "spec.sessionAffinity",
                format!("{other:?} is not None or ClientIP; taken as None"),
            );
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let timeout = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let Some(timeout) = timeout else { return Some(DEFAULT_AFFINITY_SECONDS) };
    let valid = u32::try_from(timeout).ok().filter(|t| (1..=MAX_AFFINITY_SECONDS).contains(t));
    if valid.is_none() {
        checker.problem(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!(
                "{timeout} is not 1 to {MAX_AFFINITY_SECONDS}; \
                 the default of {DEFAULT_AFFINITY_SECONDS} is used"
            ),
        );
    }
    Some(valid.unwrap_or(DEFAULT_AFFINITY_SECONDS))
}
