//! Service: its addresses, ports and policies.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Convert, close_on_removal, is_foreign, redirect};
use crate::source::decode::validate::Validator;
use crate::{
    model::limits,
    model::object::{Family, Object, Service, ServicePort},
    source::Sourced,
};

/// The API server's default: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// The API's limit: one day.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

pub(super) fn convert(service: &api::Service) -> Option<Sourced> {
    let default = api::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    if is_foreign(&service.metadata) || is_without_address(spec) {
        return None;
    }
    let mut validator = Validator::new(service.reference());
    if !validator.names_are_valid() {
        return Some(validator.finish(None));
    }
    let cluster_ips = cluster_ips(&mut validator, spec);
    let external_ips = addresses(&mut validator, "spec.externalIPs", spec.external_ips.as_deref());
    let load_balancer_ips = load_balancer_ips(&mut validator, service);
    // The addresses of each port, and its node port in each family.
    let has_node_ports = spec.ports.iter().flatten().any(|port| port.node_port.is_some());
    let places = cluster_ips.len() * (1 + usize::from(has_node_ports))
        + external_ips.len()
        + load_balancer_ips.len();
    let ports = ports(&mut validator, spec, places);
    let object = Service {
        name: validator.reference().name.clone(),
        uid: service.metadata.uid.as_deref().filter(|uid| !uid.is_empty()).map(Into::into),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        source_ranges: source_ranges(&mut validator, spec),
        internal_traffic_policy: validator
            .traffic_policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external_traffic_policy: validator
            .traffic_policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
        affinity_seconds: affinity_seconds(&mut validator, spec),
        redirect: redirect::of_service(&mut validator, &service.metadata).unwrap_or_default(),
        close_on_removal: close_on_removal::of_service(&mut validator, &service.metadata),
        cluster_ips,
        external_ips,
        load_balancer_ips,
        ports,
    };
    let usable = !object.cluster_ips.is_empty() && !object.ports.is_empty();
    Some(validator.finish(usable.then_some(Object::Service(object))))
}

/// ExternalName and headless Services, and those without an address yet.
fn is_without_address(spec: &api::ServiceSpec) -> bool {
    let given = |ip: Option<&str>| !matches!(ip, None | Some("" | "None"));
    let cluster_ip = spec.cluster_ip.as_deref();
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).map(String::as_str);
    spec.type_.as_deref() == Some("ExternalName")
        || cluster_ip == Some("None")
        || !(given(cluster_ip) || given(first))
}

/// The first one of each family.
fn cluster_ips(validator: &mut Validator, spec: &api::ServiceSpec) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    match spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()) {
        Some(ips) => {
            for (i, text) in ips.iter().enumerate() {
                let field = format!("spec.clusterIPs[{i}]");
                let Some(ip) = validator.address(&field, text, None) else { continue };
                let family = Family::of(ip);
                if found.iter().any(|other| Family::of(*other) == family) {
                    validator
                        .error(field, format!("{ip}: a second {family} address; it is skipped"));
                } else {
                    found.push(ip);
                }
            }
        }
        None => {
            let text = spec.cluster_ip.as_deref().unwrap_or("");
            found.extend(validator.address("spec.clusterIP", text, None));
        }
    }
    if found.is_empty() {
        validator.error("spec.clusterIPs", "no valid address; the service is skipped");
    }
    found
}

fn ports(validator: &mut Validator, spec: &api::ServiceSpec, places: usize) -> Vec<ServicePort> {
    let mut names = HashSet::new();
    let mut ports = Vec::new();
    let all = spec.ports.as_deref().unwrap_or(&[]);
    let all = validator.first_of("spec.ports", all, limits::FRONTENDS / places.max(1));
    for (i, port) in all.iter().enumerate() {
        let Some(port) = convert_port(validator, i, port) else { continue };
        // kube-proxy identifies a Service's port by name and protocol.
        if names.insert((port.name.clone(), port.protocol)) {
            ports.push(port);
        } else {
            validator.error(
                format!("spec.ports[{i}].name"),
                format!("{:?} is the name of an earlier port; the port is skipped", &*port.name),
            );
        }
    }
    if ports.is_empty() {
        validator.error("spec.ports", "no valid port; the service is skipped");
    }
    ports
}

fn convert_port(
    validator: &mut Validator,
    i: usize,
    port: &api::ServicePort,
) -> Option<ServicePort> {
    let field = |name: &str| format!("spec.ports[{i}].{name}");
    let name = validator.port_name(&field("name"), port.name.as_deref())?;
    let protocol = validator.protocol(&field("protocol"), port.protocol.as_deref())?;
    let number = validator.port(&field("port"), port.port)?;
    // Go programs write 0 for none.
    let node_port = match port.node_port.filter(|number| *number != 0) {
        Some(number) => validator.port(&field("nodePort"), number),
        None => None,
    };
    Some(ServicePort { name: name.into(), protocol, port: number, node_port })
}

fn addresses(validator: &mut Validator, field: &str, texts: Option<&[String]>) -> Vec<IpAddr> {
    let texts =
        validator.first_of(field, texts.unwrap_or(&[]), limits::ADDRESSES).iter().enumerate();
    texts
        .filter_map(|(i, text)| validator.claimed_address(&format!("{field}[{i}]"), text))
        .collect()
}

/// The load balancer's addresses, which each node serves. With ipMode Proxy, traffic must go through the load balancer;
/// entries with only a host name have no address.
fn load_balancer_ips(validator: &mut Validator, service: &api::Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|status| status.ingress.as_deref()).unwrap_or(&[]);
    let all = validator.first_of("status.loadBalancer.ingress", all, limits::ADDRESSES);
    let mut ips = Vec::new();
    for (i, ingress) in all.iter().enumerate() {
        let is_vip = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        if let Some(ip) = ingress.ip.as_deref().filter(|ip| is_vip && !ip.is_empty()) {
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            ips.extend(validator.claimed_address(&field, ip));
        }
    }
    ips
}

/// Which families have source ranges. One that cannot be read is taken to restrict both: the
/// addresses are then left to kube-proxy, never opened by a typo.
fn source_ranges(validator: &mut Validator, spec: &api::ServiceSpec) -> [bool; 2] {
    let mut families = [false; 2];
    for (i, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        // The API's validation lets surrounding blanks pass.
        match text.trim().parse::<IpNet>() {
            Ok(range) => families[Family::of(range.addr()) as usize] = true,
            Err(_) => {
                families = [true; 2];
                validator.error(
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

fn affinity_seconds(validator: &mut Validator, spec: &api::ServiceSpec) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            validator.error(
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
        validator.error(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!(
                "{timeout} is not 1 to {MAX_AFFINITY_SECONDS}; \
                 the default of {DEFAULT_AFFINITY_SECONDS} is used"
            ),
        );
    }
    Some(valid.unwrap_or(DEFAULT_AFFINITY_SECONDS))
}
