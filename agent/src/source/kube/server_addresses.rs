//! The addresses of the API server, and in which order to dial them.
//!
//! The configured address may need something else on the node or in the network (kube-proxy, a load balancer). The last
//! known endpoints of `default/kubernetes` are the API servers themselves, but may be out of date. So both are dialled.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// More than any cluster has control-plane nodes.
const MAX_ENDPOINTS: usize = 16;

/// Until the agent has reached the API server, it does not serve the API server's Service.
const WITHOUT_KUBE_PROXY: &str = "if this node has no kube-proxy, use deploy/overlays/without-kube-proxy, \
                                  which names an address of the API server that is no service's";

/// Why the endpoints of `default/kubernetes` are not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnlyAsConfigured {
    /// Credentials must not go to an address from the cluster unless TLS verifies the server.
    SkipsVerification,
    /// A proxy may serve several clusters.
    HasPath,
}

impl OnlyAsConfigured {
    /// What to do if the configured address is that of a Service.
    const fn hint(self) -> &'static str {
        match self {
            Self::SkipsVerification => {
                "with insecure-skip-tls-verify in the kubeconfig the agent does not dial the API server \
                 past its service address: where no kube-proxy serves that, set certificate-authority \
                 in its place, or as server an address that is no service's"
            }
            Self::HasPath => {
                "as the server's URL in the kubeconfig has a path, the agent does not dial the API server \
                 past its service address: where no kube-proxy serves that, leave the path out, or set \
                 as server an address that is no service's"
            }
        }
    }
}

/// An address to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Configured,
    /// An endpoint of `default/kubernetes`.
    Endpoint(SocketAddr),
}

/// The addresses to dial. The source dials them, and the control loop sets the endpoints.
#[derive(Debug, Default)]
pub struct ServerAddresses {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: Vec<SocketAddr>,
    /// The address that was reached last.
    good: Option<Target>,
    /// Addresses that were reached and then failed, the latest one last. They are dialled after the others.
    failed: Vec<Target>,
    /// The API server was reached since the start.
    reached: bool,
    /// The configured address is an address of the service `default/kubernetes`.
    through_service: bool,
    only_as_configured: Option<OnlyAsConfigured>,
}

impl ServerAddresses {
    /// Replaces the last known endpoints of `default/kubernetes`.
    pub fn set_endpoints(&self, endpoints: impl IntoIterator<Item = SocketAddr>) {
        let mut endpoints: Vec<SocketAddr> = endpoints.into_iter().collect();
        let mut state = self.lock();
        let is_same = endpoints.len() == state.endpoints.len()
            && endpoints.iter().all(|endpoint| state.endpoints.contains(endpoint));
        if is_same {
            return;
        }
        // In random order, so that not all agents dial the same server.
        fastrand::shuffle(&mut endpoints);
        endpoints.truncate(MAX_ENDPOINTS);
        state.endpoints = endpoints;
        let State { endpoints, failed, .. } = &mut *state;
        failed.retain(|target| is_known(endpoints, *target));
    }

    /// Never dials an endpoint.
    pub(super) fn dial_only_as_configured(&self, why: OnlyAsConfigured) {
        self.lock().only_as_configured = Some(why);
    }

    /// The configured address is one of the Service `default/kubernetes`, which something on the node must serve.
    pub fn set_through_service(&self) {
        self.lock().through_service = true;
    }

    /// What may help when the API server cannot be reached and its configured address is that of a Service. Once the
    /// server was reached there, something serves the address; after [`Self::dial_only_as_configured`], it is the only
    /// address.
    pub(super) fn hint(&self) -> Option<&'static str> {
        let state = self.lock();
        match state.only_as_configured {
            _ if !state.through_service => None,
            Some(why) => Some(why.hint()),
            None => (!state.reached).then_some(WITHOUT_KUBE_PROXY),
        }
    }

    /// The addresses to dial, the most promising first.
    pub(super) fn candidates(&self) -> Vec<Target> {
        let state = self.lock();
        let endpoints = state.endpoints.iter().filter(|_| state.only_as_configured.is_none());
        let endpoints = endpoints.map(|endpoint| Target::Endpoint(*endpoint));
        let mut targets: Vec<Target> =
            std::iter::once(Target::Configured).chain(endpoints).collect();
        // A stable sort: equally promising addresses keep their order.
        targets.sort_by_key(|target| {
            let failed = state.failed.iter().position(|failed| failed == target);
            (failed.map_or(0, |position| position + 1), state.good != Some(*target))
        });
        targets
    }

    /// A connection was made, including TLS.
    pub(super) fn reached(&self, target: Target) {
        let mut state = self.lock();
        state.good = Some(target);
        state.reached = true;
        state.failed.retain(|failed| *failed != target);
    }

    /// A server that was reached does not answer any more. Without its address, it is the one that was reached last.
    pub(super) fn failed(&self, server: Option<SocketAddr>) {
        let mut state = self.lock();
        let target = match server {
            None => state.good,
            Some(server) if state.endpoints.contains(&server) => Some(Target::Endpoint(server)),
            Some(_) => Some(Target::Configured),
        };
        let Some(target) = target else { return };
        if state.good == Some(target) {
            state.good = None;
        }
        state.failed.retain(|failed| *failed != target);
        state.failed.push(target);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change of the state can be interrupted half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_known(endpoints: &[SocketAddr], target: Target) -> bool {
    match target {
        Target::Configured => true,
        Target::Endpoint(endpoint) => endpoints.contains(&endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 6443))
    }

    fn endpoint(last: u8) -> Target {
        Target::Endpoint(server(last))
    }

    #[test]
    fn the_configured_address_comes_first_until_another_one_worked() {
        let addresses = ServerAddresses::default();
        assert_eq!(addresses.candidates(), [Target::Configured]);
        addresses.set_endpoints([server(1)]);
        assert_eq!(addresses.candidates(), [Target::Configured, endpoint(1)]);
        addresses.reached(endpoint(1));
        assert_eq!(addresses.candidates(), [endpoint(1), Target::Configured]);
    }

    #[test]
    fn what_failed_comes_last_until_it_works_again() {
        let addresses = ServerAddresses::default();
        addresses.set_endpoints([server(1)]);
        addresses.reached(Target::Configured);
        addresses.failed(None);
        assert_eq!(addresses.candidates(), [endpoint(1), Target::Configured]);
        addresses.failed(Some(server(1)));
        assert_eq!(addresses.candidates(), [Target::Configured, endpoint(1)]);
        addresses.reached(endpoint(1));
        assert_eq!(addresses.candidates(), [endpoint(1), Target::Configured]);
    }

    #[test]
    fn the_hint_ends_when_the_service_address_worked_unless_nothing_else_is_dialled() {
        let addresses = ServerAddresses::default();
        addresses.set_through_service();
        assert_eq!(addresses.hint(), Some(WITHOUT_KUBE_PROXY));
        addresses.reached(Target::Configured);
        assert_eq!(addresses.hint(), None);
        addresses.dial_only_as_configured(OnlyAsConfigured::HasPath);
        addresses.set_endpoints([server(1)]);
        assert_eq!(addresses.candidates(), [Target::Configured]);
        assert_eq!(addresses.hint(), Some(OnlyAsConfigured::HasPath.hint()));
    }

    #[test]
    fn an_endpoint_that_is_gone_is_not_dialled() {
        let addresses = ServerAddresses::default();
        addresses.set_endpoints([server(1)]);
        addresses.reached(endpoint(1));
        addresses.set_endpoints([server(2)]);
        assert_eq!(addresses.candidates(), [Target::Configured, endpoint(2)]);
    }
}
