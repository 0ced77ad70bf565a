//! Checks of single fields. A failed check reports the object and the path of the field, and returns no value.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    model::object::{Family, InputError, Object, ObjectRef, Protocol, TrafficPolicy, shorten},
    source::Sourced,
};

/// Maximum length of a namespace or object name (a DNS subdomain).
const MAX_NAME: usize = 253;
/// Maximum reports for one object.
const MAX_PROBLEMS: usize = 20;
/// Maximum length of a port name (a DNS label in Services).
const MAX_PORT_NAME: usize = 63;

/// Collects what is wrong with one object while it is converted.
pub(super) struct Validator {
    reference: ObjectRef,
    input_errors: Vec<InputError>,
    /// Problems beyond [`MAX_PROBLEMS`].
    unreported: usize,
}

impl Validator {
    pub(super) fn new(reference: ObjectRef) -> Self {
        Self { reference, input_errors: Vec::new(), unreported: 0 }
    }

    pub(super) fn reference(&self) -> &ObjectRef {
        &self.reference
    }

    pub(super) fn finish(mut self, object: Option<Object>) -> Sourced {
        if self.unreported > 0 {
            let message =
                format!("{} more errors of this kind; those fields are skipped", self.unreported);
            self.input_errors.push(InputError {
                object: (&self.reference).into(),
                field: String::new(),
                message,
            });
        }
        Sourced {
            reference: self.reference,
            object,
            service: None,
            input_errors: self.input_errors,
        }
    }

    pub(super) fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.input_errors.len() >= MAX_PROBLEMS {
            self.unreported += 1;
            return;
        }
        self.input_errors.push(InputError {
            object: (&self.reference).into(),
            field: field.into(),
            message: shorten(message.into()),
        });
    }

    /// The first elements of a list, as many as one object may have.
    pub(super) fn first_of<'a, T>(&mut self, field: &str, all: &'a [T], most: usize) -> &'a [T] {
        if all.len() <= most {
            return all;
        }
        self.error(field, format!("{} of them; only the first {most} are used", all.len()));
        &all[..most]
    }

    /// Whether namespace and name identify the object.
    pub(super) fn names_are_valid(&mut self) -> bool {
        let ObjectRef { kind, name } = self.reference.clone();
        let namespace_is_valid =
            !kind.is_namespaced() || self.name_is_valid("metadata.namespace", &name.namespace);
        self.name_is_valid("metadata.name", &name.name) && namespace_is_valid
    }

    fn name_is_valid(&mut self, field: &str, name: &str) -> bool {
        if name.is_empty() {
            self.error(field, "missing; the object is skipped");
        } else if name.chars().count() > MAX_NAME {
            let length = name.chars().count();
            self.error(
                field,
                format!("{length} characters long, at most {MAX_NAME} are allowed; the object is skipped"),
            );
        } else if !name.chars().all(is_of_a_name) {
            self.error(field, format!("{name:?} is not a name; the object is skipped"));
        } else {
            return true;
        }
        false
    }

    pub(super) fn port_name<'a>(&mut self, field: &str, name: Option<&'a str>) -> Option<&'a str> {
        let name = name.unwrap_or("");
        let length = name.chars().count();
        if length > MAX_PORT_NAME {
            self.error(
                field,
                format!("{length} characters long, at most {MAX_PORT_NAME} are allowed; the port is skipped"),
            );
            return None;
        }
        if !name.chars().all(is_of_a_name) {
            self.error(field, format!("{name:?} is not a name; the port is skipped"));
            return None;
        }
        Some(name)
    }

    pub(super) fn port(&mut self, field: &str, port: i32) -> Option<u16> {
        let valid = u16::try_from(port).ok().filter(|port| *port != 0);
        if valid.is_none() {
            self.error(
                field,
                format!("{port} is not a port number (1 to 65535); the port is skipped"),
            );
        }
        valid
    }

    /// TCP by default, as the API server sets it.
    pub(super) fn protocol(&mut self, field: &str, protocol: Option<&str>) -> Option<Protocol> {
        match protocol {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.error(
                    field,
                    format!("{other:?} is not TCP, UDP or SCTP; the port is skipped"),
                );
                None
            }
        }
    }

    pub(super) fn traffic_policy(&mut self, field: &str, policy: Option<&str>) -> TrafficPolicy {
        match policy {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.error(field, format!("{other:?} is not Cluster or Local; taken as Cluster"));
                TrafficPolicy::Cluster
            }
        }
    }

    /// An address that a Service may claim besides its ClusterIPs.
    ///
    /// The rule is the API server's for `externalIPs` (`ValidateNonSpecialIP` in
    /// `pkg/apis/core/validation`, 1.36), which does not check load balancer addresses: loopback and link-local addresses
    /// belong to each host (a metadata service, the kubelet's health port). Multicast and broadcast addresses belong to
    /// none.
    pub(super) fn claimed_address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let ip = self.address(field, text, None)?;
        let wrong = if ip.is_loopback() {
            "a loopback address is each host's own"
        } else if is_link_local(ip) {
            "a link-local address is each link's own"
        } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            "the broadcast address is no address of a host"
        } else {
            return Some(ip);
        };
        self.error(field, format!("{text:?}: {wrong}; it is skipped"));
        None
    }

    /// A unicast address, of the family if one is given.
    pub(super) fn address(
        &mut self,
        field: &str,
        text: &str,
        family: Option<Family>,
    ) -> Option<IpAddr> {
        let wrong = match parse_ip(text) {
            Err(why) => why,
            Ok(ip) if ip.is_unspecified() => "the unspecified address is no address of a host",
            Ok(ip) if ip.is_multicast() => "a multicast address is no address of a host",
            Ok(ip) => match family {
                Some(Family::IPv4) if ip.is_ipv6() => "an IPv6 address, but IPv4 is declared",
                Some(Family::IPv6) if ip.is_ipv4() => "an IPv4 address, but IPv6 is declared",
                _ => return Some(ip),
            },
        };
        self.error(field, format!("{text:?}: {wrong}; it is skipped"));
        None
    }
}

/// Whether the API could have an object of this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_of_a_name)
}

/// The API allows lower-case letters, digits, `-` and, in some names, `.` (`IsDNS1123Subdomain` and its like
/// in apimachinery's `pkg/util/validation`). Names are printed everywhere.
const fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Objects that an old API server stored may have IPv4 octets with leading zeros, which Kubernetes reads as decimal. An
/// IPv4-mapped address is not the address of an IPv6 host, and is refused.
fn parse_ip(text: &str) -> Result<IpAddr, &'static str> {
    let ip = text.parse().ok().or_else(|| zero_padded_ipv4(text)).ok_or("not an IP address")?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err("an IPv4-mapped IPv6 address; write it as IPv4")
        }
        ip => Ok(ip),
    }
}

fn zero_padded_ipv4(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        // `u8::from_str` accepts a leading plus sign.
        *octet = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}
