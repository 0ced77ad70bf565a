//! Makes the document of the agent's explanation, the maps and the connect.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    connect::Made,
    document::{Connect, EndpointAddress, Port, TraceReport},
    hindrance::Hindrance,
    port::{PortKey, key_of},
};
use crate::{
    admin::Subject,
    cli::output::table,
    model::{
        explain::{Explanation, is_port, port_label},
        object::Protocol,
        plan::{Action, Frontend, FrontendAddress, FrontendKind},
    },
};

/// How many ports the error for an unknown one names.
const PORTS_IN_ERROR: usize = 20;

/// Where the explanation comes from.
pub enum Source {
    Agent(Box<Explanation>),
    /// There is none, for this reason.
    Maps {
        message: String,
    },
}

impl Source {
    pub fn knows_the_service(&self) -> bool {
        matches!(self, Self::Agent(explanation) if explanation.service.is_some())
    }
}

impl TraceReport {
    /// `in_maps` are the service's frontends in the maps.
    ///
    /// # Errors
    /// When the service has no such port; the message lists those that it has.
    pub fn new(
        node_name: String,
        subject: Subject,
        source: Source,
        in_maps: &[Arc<Frontend>],
    ) -> anyhow::Result<Self> {
        let mut by_port: BTreeMap<PortKey, Vec<&Frontend>> = BTreeMap::new();
        for frontend in in_maps {
            by_port.entry(key_of(frontend)).or_default().push(frontend);
        }
        let mut report = Self {
            node_name,
            zone: None,
            service: subject.service,
            internal_traffic_policy: None,
            external_traffic_policy: None,
            messages: Vec::new(),
            ports: Vec::new(),
            connect: None,
        };
        let held: Vec<String> = by_port.iter().map(label).collect();
        let wanted = subject.port.as_deref();
        let mut others = Vec::new();
        match source {
            Source::Agent(mut explanation) => {
                let service = explanation.service.as_mut();
                others = service.map(|of| std::mem::take(&mut of.other_ports)).unwrap_or_default();
                report.explain(*explanation, by_port, wanted);
            }
            Source::Maps { message } => {
                report.messages.push(message);
                report.ports = of_maps(by_port, wanted).collect();
            }
        }
        if let (true, Some(wanted)) = (report.ports.is_empty(), wanted) {
            let mut all = if others.is_empty() { held } else { others };
            all.dedup();
            let more = all.len().saturating_sub(PORTS_IN_ERROR);
            all.truncate(PORTS_IN_ERROR);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let all = all.join(", ");
            anyhow::bail!("Service {} has no port {wanted}; it has {all}{more}", report.service);
        }
        Ok(report)
    }

    fn explain(
        &mut self,
        explanation: Explanation,
        mut in_maps: BTreeMap<PortKey, Vec<&Frontend>>,
        wanted: Option<&str>,
    ) {
        self.zone = explanation.zone;
        self.messages.extend(explanation.input_errors);
        if explanation.is_waiting {
            let message = "the Service changed, and the change is not in the maps yet";
            self.messages.push(message.to_owned());
        }
        let Some(service) = explanation.service else {
            self.messages.push(
                "the agent knows no such Service that it can serve; the maps still have what was programmed".into(),
            );
            self.ports = of_maps(in_maps, wanted).collect();
            return;
        };
        self.internal_traffic_policy = Some(service.internal_traffic_policy);
        self.external_traffic_policy = Some(service.external_traffic_policy);
        for port in service.ports {
            let key = (port.name, port.protocol, port.family);
            let held = in_maps.remove(&key).unwrap_or_default();
            self.ports.push(Port::explained(key, &port.frontends, &port.choices, &held));
        }
        for port in of_maps(in_maps, wanted) {
            let Port { port_name, protocol, family, .. } = &port;
            let message = format!("port {port_name:?} ({protocol}, {family}) is only in the maps");
            self.messages.push(message);
            self.ports.push(port);
        }
    }

    /// The first ClusterIP that is the Service's own, of a TCP port if there is one, else of a UDP port.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn address_to_connect_to(&self) -> Result<(SocketAddr, Protocol), &'static str> {
        let cluster_ips = || {
            let frontends = self
                .ports
                .iter()
                .flat_map(|port| port.frontends.iter().map(|frontend| (port.protocol, frontend)));
            frontends.filter(|(protocol, frontend)| {
                frontend.kind == FrontendKind::ClusterIP && *protocol != Protocol::Sctp
            })
        };
        let first_of = |wanted: Protocol| {
            cluster_ips().find_map(|(protocol, frontend)| {
                let address: IpAddr = frontend.address.parse().ok()?;
                (protocol == wanted && frontend.lost_to.is_none())
                    .then(|| (SocketAddr::new(address, frontend.port), protocol))
            })
        };
        first_of(Protocol::Tcp).or_else(|| first_of(Protocol::Udp)).ok_or_else(|| {
            if cluster_ips().next().is_some() {
                "another Service has the ClusterIP"
            } else if self.ports.iter().all(|port| port.protocol == Protocol::Sctp) {
                "no port has protocol TCP or UDP"
            } else {
                "its ClusterIP is not in the maps"
            }
        })
    }

    /// `in_maps` are the service's frontends in the maps.
    pub fn set_connect(
        &mut self,
        made: &Made,
        hindrance: Option<&Hindrance>,
        in_maps: &[Arc<Frontend>],
    ) {
        let message = self.outcome(made, hindrance, in_maps);
        self.connect = Some(Connect {
            address: made.address.ip(),
            port: made.address.port(),
            protocol: made.protocol,
            connected: made.result.is_ok(),
            endpoint: made.translation.as_ref().map(|translation| EndpointAddress {
                address: translation.endpoint.ip(),
                port: translation.endpoint.port(),
            }),
            peer: made.peer,
            took: Some(made.took),
            message,
        });
    }

    fn outcome(
        &self,
        made: &Made,
        hindrance: Option<&Hindrance>,
        in_maps: &[Arc<Frontend>],
    ) -> String {
        let to = match &made.translation {
            Some(translation) => {
                let other = translation.service.as_ref().filter(|key| key.service != self.service);
                let of = other.map(|key| format!(" of {key}, which has the address"));
                format!("translated to {}{}", translation.endpoint, of.unwrap_or_default())
            }
            None => untranslated(made, hindrance, in_maps),
        };
        let result = match &made.result {
            Ok(()) => "connected".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "no answer".to_owned(),
            Err(error) => error.to_string(),
        };
        format!("{to}; {result}")
    }
}

/// What the programs did, as far as it can be known: the maps have the action, and something may keep the programs from
/// the call.
fn untranslated(made: &Made, hindrance: Option<&Hindrance>, in_maps: &[Arc<Frontend>]) -> String {
    if let Some(hindrance) = hindrance.filter(|hindrance| hindrance.excludes_the_programs()) {
        return format!("not translated: {hindrance}");
    }
    let frontend = in_maps.iter().find(|frontend| {
        (frontend.address, frontend.port, frontend.protocol)
            == (FrontendAddress::Ip(made.address.ip()), made.address.port(), made.protocol)
    });
    // ECONNREFUSED, and EPERM without `bpf_set_retval`.
    let is_refused = made.result.as_ref().is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied)
    });
    match (frontend.map(|frontend| (frontend.action, frontend.reason)), hindrance) {
        (None, _) => "not translated: the maps do not have the address".to_owned(),
        (Some((Action::Bypass, Some(reason))), _) => {
            format!("not translated: the maps have `bypass ({})`", table::reason(reason))
        }
        (Some((Action::Refuse, Some(reason))), _) if is_refused => {
            format!("refused by the programs ({})", table::reason(reason))
        }
        (Some((Action::Refuse, Some(reason))), _) => format!(
            "not refused, although the maps have `refuse ({})`: `sockline check` tries the programs",
            table::reason(reason)
        ),
        (Some(_), Some(hindrance)) => format!("whether it was translated is unknown: {hindrance}"),
        (Some(_), None) => {
            "not translated, or its record is not in a map: `sockline check` tries the programs"
                .to_owned()
        }
    }
}

/// The ports in the maps, or the one with this name or number.
fn of_maps(
    in_maps: BTreeMap<PortKey, Vec<&Frontend>>,
    wanted: Option<&str>,
) -> impl Iterator<Item = Port> {
    let is_wanted = move |((name, ..), all): &(PortKey, Vec<&Frontend>)| {
        wanted.is_none_or(|wanted| is_port(wanted, name, all.iter().map(|frontend| frontend.port)))
    };
    in_maps.into_iter().filter(is_wanted).map(|(key, all)| Port::of_maps(key, &all))
}

fn label(((name, protocol, _), all): (&PortKey, &Vec<&Frontend>)) -> String {
    port_label(name, all.iter().map(|frontend| frontend.port), *protocol)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{
        object::Family,
        plan::{Balance, Reason},
    };

    fn made(result: io::Result<()>) -> Made {
        Made {
            address: "10.96.0.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            result,
            took: Duration::ZERO,
            translation: None,
            peer: None,
        }
    }

    fn in_maps(action: Action, reason: Option<Reason>) -> [Arc<Frontend>; 1] {
        [Arc::new(Frontend {
            service: crate::model::object::ObjectName::new("shop", "cart"),
            port_name: "web".into(),
            address: FrontendAddress::Ip(IpAddr::from([10, 96, 0, 1])),
            family: Family::IPv4,
            port: 80,
            protocol: Protocol::Tcp,
            kind: FrontendKind::ClusterIP,
            action,
            reason,
            affinity_seconds: None,
            balance: Balance::Random,
            of_node: 0,
            backends: Arc::default(),
        })]
    }

    #[test]
    fn a_refusal_needs_an_error_of_that_kind_and_the_action_in_the_maps() {
        let refuse = in_maps(Action::Refuse, Some(Reason::NoEndpoints));
        let said = |errno: Option<i32>, hindrance: Option<&Hindrance>, held: &[Arc<Frontend>]| {
            let result = errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
            untranslated(&made(result), hindrance, held)
        };
        for errno in [libc::ECONNREFUSED, libc::EPERM] {
            let programs = "refused by the programs (no-endpoints)";
            assert_eq!(said(Some(errno), None, &refuse), programs);
            assert_eq!(said(Some(errno), Some(&Hindrance::NoRecord), &refuse), programs);
            let none = "not translated: the maps do not have the address";
            assert_eq!(said(Some(errno), None, &[]), none);
            let detached = said(Some(errno), Some(&Hindrance::Detached("connect4")), &refuse);
            assert!(detached.starts_with("not translated: the program for connect4"), "{detached}");
        }
        for errno in [None, Some(libc::ETIMEDOUT), Some(libc::ENETUNREACH)] {
            let not = said(errno, None, &refuse);
            assert!(not.starts_with("not refused, although the maps have `refuse (no-"), "{not}");
        }
        let bypass = in_maps(Action::Bypass, Some(Reason::TooLarge));
        let bypassed = "not translated: the maps have `bypass (too-large)`";
        assert_eq!(said(Some(libc::ECONNREFUSED), None, &bypass), bypassed);
    }
}
