//! The document as text.

use std::{net::SocketAddr, time::Duration};

use super::document::{
    Connect, InMaps, Listed, Port, TraceReport, TracedChoice, TracedEndpoint, TracedFrontend,
};
use crate::{
    cli::output::table,
    duration,
    escape::Escaped,
    model::{
        object::{Protocol, TrafficPolicy},
        plan::{Action, EndpointReason, FrontendKind},
    },
};

pub fn render(report: &TraceReport) -> String {
    let mut text = head(report);
    for message in &report.messages {
        text += &format!("Note      {}\n", Escaped(message));
    }
    for port in &report.ports {
        text += &port_text(report, port);
    }
    report.connect.iter().for_each(|connect| text += &connect_text(connect));
    text
}

fn head(report: &TraceReport) -> String {
    let zone = match (&report.zone, report.internal_traffic_policy) {
        (Some(zone), _) => format!(", zone {zone}"),
        (None, Some(_)) => ", without a zone".to_owned(),
        (None, None) => String::new(),
    };
    let mut text = format!("Service   {}\nNode      {}{zone}\n", report.service, report.node_name);
    if let (Some(internal), Some(external)) =
        (report.internal_traffic_policy, report.external_traffic_policy)
    {
        text += &format!("Policy    internal {internal:?}, external {external:?}");
        let is_external = |frontend: &TracedFrontend| frontend.kind != FrontendKind::ClusterIP;
        let mut frontends = report.ports.iter().flat_map(|port| &port.frontends);
        if external == TrafficPolicy::Local && frontends.any(is_external) {
            text += ": from this node, external addresses have the endpoints of the whole cluster, as with kube-proxy";
        }
        text.push('\n');
    }
    text
}

fn port_text(report: &TraceReport, port: &Port) -> String {
    let name = if port.port_name.is_empty() { "without a name" } else { &port.port_name };
    let mut text = format!("\nPort {}, {}, {}\n\n", Escaped(name), port.protocol, port.family);
    text += &frontends(report, port);
    for (number, choice) in port.choices.iter().enumerate() {
        text += &match choice.traffic_policy {
            Some(policy) if port.choices.len() > 1 => {
                format!("\nEndpoints with policy {policy:?}\n")
            }
            None if port.choices.len() > 1 => format!("\nEndpoints, list {number}\n"),
            _ => "\n".to_owned(),
        };
        text += &endpoints(choice, use_of(port, number));
    }
    text
}

fn frontends(report: &TraceReport, port: &Port) -> String {
    let explained = report.internal_traffic_policy.is_some();
    let mut table = table::new(&[
        "TYPE",
        "ADDRESS",
        "PORT",
        "POLICY",
        "AFFINITY",
        "BACKENDS",
        "ACTION",
        "IN THE MAPS",
    ]);
    for frontend in &port.frontends {
        let policy = match frontend.choice.map(|choice| port.choices[choice].traffic_policy) {
            Some(Some(policy)) => format!("{policy:?}"),
            // It is in the maps alone.
            Some(None) => "-".to_owned(),
            None => "of its node".to_owned(),
        };
        table.add_row([
            format!("{:?}", frontend.kind),
            frontend.address.clone(),
            frontend.port.to_string(),
            policy,
            frontend
                .affinity_timeout_seconds
                .map_or_else(|| "-".into(), |seconds| format!("{seconds}s")),
            frontend.backends.to_string(),
            table::action_and_reason(frontend.action, frontend.reason),
            match (&frontend.lost_to, frontend.in_maps) {
                (Some(other), _) => {
                    format!("the address belongs to {}:{}", other.service, other.port_name)
                }
                (None, Some(InMaps::AsPlanned)) => "as planned".to_owned(),
                (None, Some(InMaps::Differs)) => "otherwise: `sockline status` says why".to_owned(),
                (None, Some(InMaps::Missing)) => "no: `sockline status` says why".to_owned(),
                (None, None) if explained => "only there".to_owned(),
                (None, None) => "yes".to_owned(),
            },
        ]);
    }
    table::render(&table)
}

/// Whether a connect uses a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Forwarded,
    /// Each of its addresses is refused, bypassed or another Service's, so its backends are not in the maps.
    Unused,
}

fn use_of(port: &Port, choice: usize) -> Use {
    let is_forwarded = port.frontends.iter().any(|frontend| {
        frontend.choice == Some(choice)
            && frontend.action == Action::Forward
            && frontend.lost_to.is_none()
    });
    if is_forwarded { Use::Forwarded } else { Use::Unused }
}

fn endpoints(choice: &TracedChoice, of: Use) -> String {
    if choice.endpoints.is_empty() && choice.unlisted == 0 {
        return "no EndpointSlice of the Service has an endpoint for it\n".to_owned();
    }
    let mut table = table::new(&[
        "ENDPOINT",
        "NODE",
        "TRAFFIC",
        "ENDPOINT SLICE",
        "CHOSEN",
        "IN THE MAPS",
        "WHY",
    ]);
    let yes_or_no = |is: bool| if is { "yes" } else { "no" };
    for endpoint in &choice.endpoints {
        let listed = endpoint.listed.as_ref();
        table.add_row([
            match endpoint.port {
                Some(port) => SocketAddr::new(endpoint.address, port).to_string(),
                None => endpoint.address.to_string(),
            }
            .as_str(),
            listed.and_then(|listed| listed.node_name.as_deref()).unwrap_or("-"),
            listed.map_or("-", |listed| listed.traffic_class.as_str()),
            listed.map_or("-", |listed| &listed.endpoint_slice),
            endpoint.chosen.map_or("-", yes_or_no),
            match (of, endpoint.in_maps) {
                (Use::Unused, false) => "-",
                (_, in_maps) => yes_or_no(in_maps),
            },
            &why(endpoint),
        ]);
    }
    let listed = if choice.endpoints.is_empty() { String::new() } else { table::render(&table) };
    match choice.unlisted {
        0 => listed,
        more if choice.endpoints.is_empty() => format!("{more} endpoints, which are not listed\n"),
        more => format!("{listed}and {more} endpoints that are not listed\n"),
    }
}

fn why(endpoint: &TracedEndpoint) -> String {
    let Some(reason) = endpoint.reason else {
        return match endpoint.chosen {
            Some(_) => "no EndpointSlice has it any more".to_owned(),
            None => "-".to_owned(),
        };
    };
    let hints = |of: fn(&Listed) -> Vec<String>| {
        endpoint.listed.as_ref().map(of).unwrap_or_default().join(", ")
    };
    match reason {
        EndpointReason::Ready => "ready".to_owned(),
        EndpointReason::ServingWhileTerminating => {
            "terminating, but it still serves, and no endpoint is ready".to_owned()
        }
        EndpointReason::NotReady => "not ready".to_owned(),
        EndpointReason::Terminating => "terminating, and it serves no more".to_owned(),
        EndpointReason::OthersAreReady => "terminating, and others are ready".to_owned(),
        EndpointReason::NotOnThisNode => "not on this node (policy Local)".to_owned(),
        EndpointReason::HintedForOtherNodes => {
            let nodes =
                hints(|listed| listed.hinted_nodes.iter().map(ToString::to_string).collect());
            format!("hinted for nodes {nodes}")
        }
        EndpointReason::HintedForOtherZones => {
            let zones =
                hints(|listed| listed.hinted_zones.iter().map(ToString::to_string).collect());
            format!("hinted for zones {zones}")
        }
        EndpointReason::Duplicate => {
            "another endpoint has this address and port, and that one counts".to_owned()
        }
        EndpointReason::NoSuchPort => "its EndpointSlice does not have the port".to_owned(),
        EndpointReason::OtherFamily => {
            "the Service has no ClusterIP of this address family".to_owned()
        }
    }
}

fn connect_text(connect: &Connect) -> String {
    let address = SocketAddr::new(connect.address, connect.port);
    let took = connect.took.map_or_else(String::new, |took| {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        format!(" in {}", duration::format(Duration::from_micros(microseconds)))
    });
    let sent = if connect.protocol == Protocol::Udp { ", nothing was sent" } else { "" };
    let peer = connect.peer.map(|peer| format!("; getpeername() returns {peer}"));
    format!(
        "\nConnect   {address}, {}: {}{took}{sent}{}\n",
        connect.protocol,
        connect.message,
        peer.unwrap_or_default()
    )
}
