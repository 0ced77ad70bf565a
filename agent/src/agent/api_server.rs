//! The API server's own service, `default/kubernetes`: it keeps its last endpoints until new ones are
//! listed.
//!
//! kube-apiserver removes its endpoint when it starts to shut down (`StopReconciling` in
//! pkg/controlplane/controller/kubernetesservice), up to `--shutdown-delay-duration` before it stops,
//! and also if it is the last one. The empty list comes from a server that still answers. If the node then
//! refused connections to the service, no watch through it could ever report new endpoints. So the last
//! endpoints stay until a list has others. The planner does not do this: a plan depends only on the objects.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    dataplane::{Dataplane, InstalledPort},
    model::{
        object::{Family, InputError, Kind, ObjectName, Protocol, Subject},
        plan::{Action, Backend, Frontend, FrontendAddress, Reason},
    },
    source::ServerAddresses,
};

/// The port that a list of endpoints belongs to.
type Port = (Arc<str>, Protocol, Family);

/// The last endpoints of `default/kubernetes`. The agent connects to them as well.
pub struct ApiServer {
    name: ObjectName,
    addresses: Arc<ServerAddresses>,
    /// The configured address of the API server, unless it is a name.
    configured: Option<(IpAddr, u16)>,
    last: BTreeMap<Port, Arc<[Backend]>>,
    /// The frontends that replaced refusals.
    kept: Vec<Arc<Frontend>>,
}

impl ApiServer {
    /// Starts with the endpoints that an earlier agent left in the maps.
    pub fn new(
        addresses: Arc<ServerAddresses>,
        configured: Option<(IpAddr, u16)>,
        dataplane: &Dataplane,
    ) -> Self {
        let name = ObjectName::new("default", "kubernetes");
        let restored = dataplane.installed(&name);
        let this = Self { name, addresses, configured, last: last_of(&restored), kept: Vec::new() };
        for port in &restored {
            this.check_addresses(port.addresses.iter().copied());
        }
        this.update_addresses();
        this
    }

    /// Whether this is the service.
    pub fn is(&self, service: &ObjectName) -> bool {
        *service == self.name
    }

    /// Remembers the listed endpoints, and replaces refusals for lack of endpoints with the last ones.
    /// `frontends` has all frontends of the service, and may have others.
    pub fn keep_endpoints(&mut self, frontends: &mut [Arc<Frontend>]) {
        let mut kept = Vec::new();
        for frontend in frontends.iter_mut().filter(|frontend| frontend.service == self.name) {
            if let FrontendAddress::Ip(address) = frontend.address {
                self.check_addresses([(address, frontend.port)]);
            }
            match (frontend.action, frontend.reason) {
                (Action::Forward, _) => {
                    self.last.insert(port_of(frontend), Arc::clone(&frontend.backends));
                }
                (Action::Refuse, Some(Reason::NoEndpoints)) => {
                    let Some(backends) = self.last.get(&port_of(frontend)) else { continue };
                    let forward = Frontend {
                        action: Action::Forward,
                        reason: None,
                        backends: Arc::clone(backends),
                        ..Frontend::clone(frontend)
                    };
                    // A comparison of plans takes the same allocation for an equal frontend.
                    let same = self.kept.iter().find(|kept| ***kept == forward);
                    *frontend = same.map_or_else(|| Arc::new(forward), Arc::clone);
                    kept.push(Arc::clone(frontend));
                }
                _ => {}
            }
        }
        self.kept = kept;
        self.update_addresses();
    }

    /// The input error to report while the last endpoints are kept.
    pub fn input_error(&self) -> Option<InputError> {
        let mut endpoints: Vec<SocketAddr> =
            self.kept.iter().flat_map(|frontend| addresses(&frontend.backends)).collect();
        if endpoints.is_empty() {
            return None;
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        Some(InputError {
            object: Subject::of(Kind::Service, &self.name),
            field: String::new(),
            message: format!(
                "no endpoint is listed, as when the only API server shuts down; the last ones stay \
                 until new ones are listed: {}",
                endpoints.join(", ")
            ),
        })
    }

    fn check_addresses(&self, addresses: impl IntoIterator<Item = (IpAddr, u16)>) {
        if addresses.into_iter().any(|address| Some(address) == self.configured) {
            self.addresses.set_through_service();
        }
    }

    fn update_addresses(&self) {
        let tcp = self.last.iter().filter(|((_, protocol, _), _)| *protocol == Protocol::Tcp);
        self.addresses.set_endpoints(tcp.flat_map(|(_, backends)| addresses(backends)));
    }
}

fn addresses(backends: &[Backend]) -> impl Iterator<Item = SocketAddr> {
    backends.iter().map(|backend| SocketAddr::new(backend.address, backend.port))
}

fn port_of(frontend: &Frontend) -> Port {
    (Arc::clone(&frontend.port_name), frontend.protocol, frontend.family)
}

/// The endpoints in the maps, by port.
fn last_of(restored: &[InstalledPort]) -> BTreeMap<Port, Arc<[Backend]>> {
    let mut last = BTreeMap::new();
    for port in restored {
        for family in Family::ALL {
            let of_family = port.backends.iter().copied();
            let backends: Arc<[Backend]> =
                of_family.filter(|backend| Family::of(backend.address) == family).collect();
            if !backends.is_empty() {
                last.insert((Arc::clone(&port.name), port.protocol, family), backends);
            }
        }
    }
    last
}
