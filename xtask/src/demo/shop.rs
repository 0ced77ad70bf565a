//! The shop as in its manifests: the addresses of services, and the pods behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use serde_json::Value;
use sockline_testbed::Protocol;

use super::manifests::{Manifests, service_of};

/// An address, port and protocol of a service.
#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(super) service: String,
    pub(crate) address: SocketAddr,
    pub(super) protocol: Protocol,
    /// The pods behind it.
    pub(super) pods: BTreeSet<String>,
}

/// A pod with servers.
#[derive(Clone, Debug)]
pub(super) struct PodSpec {
    pub(super) name: String,
    /// Its node when the shop was recorded.
    pub(super) node: String,
    pub(super) address: IpAddr,
    pub(super) ports: BTreeSet<(Protocol, u16)>,
}

#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) frontends: Vec<Frontend>,
    pub(super) pods: Vec<PodSpec>,
}

impl Shop {
    pub(super) fn read(manifests: &Manifests) -> Result<Self> {
        let slices = manifests.slices()?;
        let mut pods: BTreeMap<IpAddr, PodSpec> = BTreeMap::new();
        for slice in &slices {
            let ports = ports_of(slice, "port")?;
            for endpoint in list(slice, "endpoints") {
                let spec = pod_of(endpoint)?;
                let pod = pods.entry(spec.address).or_insert(spec);
                pod.ports.extend(ports.iter().map(|(_, protocol, port)| (*protocol, *port)));
            }
        }
        let mut frontends = Vec::new();
        for service in manifests.services()? {
            frontends.extend(frontends_of(&service, &slices)?);
        }
        Ok(Self { frontends, pods: pods.into_values().collect() })
    }

    /// The first frontend of a service with a protocol.
    pub(super) fn frontend(&self, service: &str, protocol: Protocol) -> Result<&Frontend> {
        self.frontends
            .iter()
            .find(|frontend| frontend.service == service && frontend.protocol == protocol)
            .with_context(|| format!("the shop has no {protocol} service {service}"))
    }

    pub(super) fn pod(&self, name: &str) -> Option<&PodSpec> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    /// All addresses of services.
    pub(super) fn service_addresses(&self) -> BTreeSet<IpAddr> {
        self.frontends.iter().map(|frontend| frontend.address.ip()).collect()
    }
}

fn frontends_of(service: &Value, slices: &[Value]) -> Result<Vec<Frontend>> {
    let name = text(service, "/metadata/name")?;
    let cluster = list(&service["spec"], "clusterIPs").filter_map(Value::as_str);
    let balancer = list(&service["status"]["loadBalancer"], "ingress");
    let addresses: Vec<&str> =
        cluster.chain(balancer.filter_map(|ingress| ingress["ip"].as_str())).collect();
    let mut frontends = Vec::new();
    for (port_name, protocol, port) in ports_of(&service["spec"], "port")? {
        let mut pods = BTreeSet::new();
        for slice in slices.iter().filter(|slice| service_of(slice) == Some(name)) {
            if ports_of(slice, "port")?.iter().any(|(name, _, _)| *name == port_name) {
                for endpoint in list(slice, "endpoints") {
                    pods.insert(pod_of(endpoint)?.name);
                }
            }
        }
        for address in &addresses {
            let ip: IpAddr = address.parse().with_context(|| format!("{name}: {address}"))?;
            frontends.push(Frontend {
                service: name.to_owned(),
                address: SocketAddr::new(ip, port),
                protocol,
                pods: pods.clone(),
            });
        }
    }
    Ok(frontends)
}

fn pod_of(endpoint: &Value) -> Result<PodSpec> {
    Ok(PodSpec {
        name: text(endpoint, "/targetRef/name")?.to_owned(),
        node: text(endpoint, "/nodeName")?.to_owned(),
        address: text(endpoint, "/addresses/0")?.parse().context("an endpoint's address")?,
        ports: BTreeSet::new(),
    })
}

fn ports_of<'a>(object: &'a Value, field: &str) -> Result<Vec<(&'a str, Protocol, u16)>> {
    let port_of = |port: &'a Value| {
        let protocol = match port["protocol"].as_str().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => return None,
        };
        let number = u16::try_from(port[field].as_u64()?).ok()?;
        Some((port["name"].as_str().unwrap_or_default(), protocol, number))
    };
    list(object, "ports")
        .map(|port| port_of(port).with_context(|| format!("a port the demo cannot serve: {port}")))
        .collect()
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object[field].as_array().into_iter().flatten()
}

fn text<'a>(object: &'a Value, pointer: &str) -> Result<&'a str> {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("no {pointer} in {object}"))
}
