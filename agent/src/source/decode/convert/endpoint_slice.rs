//! EndpointSlice: the endpoints of a Service.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1 as api;

use super::{Convert, SERVICE_LABEL, annotations, is_foreign};
use crate::source::decode::validate::Validator;
use crate::{
    model::limits,
    model::object::{Endpoint, EndpointPort, EndpointSlice, Family, Hints, Object},
    source::Sourced,
};

/// Set by the endpoint-slice controller (`k8s.io/endpointslice/trigger_time_tracker.go`).
const TRIGGER_ANNOTATION: &str = annotations::TRIGGER_TIME.name;

pub(super) fn convert(slice: &api::EndpointSlice) -> Option<Sourced> {
    // A slice without the label belongs to no service; kube-proxy cannot use it either.
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    if service.is_empty() || is_foreign(&slice.metadata) || slice.address_type == "FQDN" {
        return None;
    }
    let mut validator = Validator::new(slice.reference());
    let unusable = |validator: Validator| {
        Some(Sourced { service: Some(service.as_str().into()), ..validator.finish(None) })
    };
    if !validator.names_are_valid() {
        return unusable(validator);
    }
    let family = match &*slice.address_type {
        "IPv4" => Family::IPv4,
        "IPv6" => Family::IPv6,
        other => {
            validator.error(
                "addressType",
                format!("{other:?} is not IPv4, IPv6 or FQDN; the slice is skipped"),
            );
            return unusable(validator);
        }
    };
    let ports = slice.ports.as_deref().unwrap_or(&[]);
    let ports = validator.first_of("ports", ports, limits::SLICE_PORTS).iter().enumerate();
    let ports = ports.filter_map(|(i, port)| convert_port(&mut validator, i, port)).collect();
    let endpoints = slice.endpoints.as_deref().unwrap_or(&[]);
    let endpoints =
        validator.first_of("endpoints", endpoints, limits::SLICE_ENDPOINTS).iter().enumerate();
    let mut endpoints: Vec<Endpoint> = endpoints
        .filter_map(|(i, endpoint)| convert_endpoint(&mut validator, i, endpoint, family))
        .collect();
    // They are kept for a long time.
    endpoints.shrink_to_fit();
    let triggered = triggered(&mut validator, slice);
    let name = validator.reference().name.clone();
    let service = service.as_str().into();
    Some(validator.finish(Some(Object::EndpointSlice(EndpointSlice {
        name,
        service,
        family,
        ports,
        endpoints,
        triggered,
    }))))
}

fn triggered(validator: &mut Validator, slice: &api::EndpointSlice) -> Option<Timestamp> {
    let text = slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    text.parse()
        .inspect_err(|_| {
            let message = format!("{text:?} is not a time (RFC 3339); it is ignored");
            validator.error(format!("metadata.annotations[{TRIGGER_ANNOTATION}]"), message);
        })
        .ok()
}

fn convert_port(
    validator: &mut Validator,
    i: usize,
    port: &api::EndpointPort,
) -> Option<EndpointPort> {
    let name = validator.port_name(&format!("ports[{i}].name"), port.name.as_deref())?;
    let protocol = validator.protocol(&format!("ports[{i}].protocol"), port.protocol.as_deref())?;
    let Some(number) = port.port else {
        // In the API it means all ports; kube-proxy does not use such a port either.
        validator.error(format!("ports[{i}].port"), "missing; the port is skipped");
        return None;
    };
    let port = validator.port(&format!("ports[{i}].port"), number)?;
    Some(EndpointPort { name: name.into(), protocol, port })
}

fn convert_endpoint(
    validator: &mut Validator,
    i: usize,
    endpoint: &api::Endpoint,
    family: Family,
) -> Option<Endpoint> {
    let Some(address) = endpoint.addresses.first() else {
        validator.error(format!("endpoints[{i}].addresses"), "empty; the endpoint is skipped");
        return None;
    };
    let field = format!("endpoints[{i}].addresses[0]");
    let address = validator.address(&field, address, Some(family))?;
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let zones =
        hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten().take(limits::HINTS);
    let nodes =
        hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten().take(limits::HINTS);
    let zone = endpoint.zone.as_deref().filter(|zone| !zone.is_empty());
    let hints = Hints {
        zones: zones.map(|zone| Arc::from(&*zone.name)).collect(),
        nodes: nodes.map(|node| Arc::from(&*node.name)).collect(),
    };
    Some(Endpoint {
        address,
        node: endpoint.node_name.as_deref().map(Into::into),
        zone: zone.map(Into::into),
        // The defaults are those of the API's documentation.
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
    })
}
