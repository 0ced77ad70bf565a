//! Where the API server may be dialled, and in which order.
//!
//! The configured address is served by whatever else is on the node (kube-proxy, a load balancer, a
//! stable address). The last known endpoints of `default/kubernetes` are the API servers themselves:
//! they need nobody, but may be out of date. Neither alone is always right, so both are tried.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// More control-plane nodes than anybody has.
const MAX_ENDPOINTS: usize = 16;

/// Until the agent has reached the API server, nothing of it serves the server's service address.
const WITHOUT_KUBE_PROXY: &str = "if this node has no kube-proxy, use deploy/overlays/without-kube-proxy, \
                                  which names an address of the API server that is no service's";

/// Why the endpoints of `default/kubernetes` are not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnlyAsConfigured {
    /// Credentials are not sent to an address that something in the cluster wrote unless TLS says
    /// whose it is.
    SkipsVerification,
    /// There may be a proxy that serves more than one cluster.
    HasPath,
}

impl OnlyAsConfigured {
    /// What to do where the configured address is a service's.
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

/// One place to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Configured,
    /// An endpoint of `default/kubernetes`.
    Endpoint(SocketAddr),
}

/// The places to dial, shared by the source, which dials, and the control loop, which learns of
/// endpoints.
#[derive(Debug, Default)]
pub struct ServerAddresses {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: Vec<SocketAddr>,
    /// What was reached last.
    good: Option<Target>,
    /// What was reached and then failed, the latest one last. It is tried after the others.
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
        // Each node's agent in its own order, so that not all of them turn to the same server.
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

    /// The configured address is one that the service `default/kubernetes` has: without somebody who
    /// serves it, it leads nowhere.
    pub fn set_through_service(&self) {
        self.lock().through_service = true;
    }

    /// What may help when the API server cannot be reached, if it is looked for at a service address.
    /// Once it was reached there, something serves that address; but nothing else is dialled when that
    /// fails if [`Self::dial_only_as_configured`] was called.
    pub(super) fn hint(&self) -> Option<&'static str> {
        let state = self.lock();
        match state.only_as_configured {
            _ if !state.through_service => None,
            Some(why) => Some(why.hint()),
            None => (!state.reached).then_some(WITHOUT_KUBE_PROXY),
        }
    }

    /// What to dial, the most promising first.
    pub(super) fn candidates(&self) -> Vec<Target> {
        let state = self.lock();
        let endpoints = state.endpoints.iter().filter(|_| state.only_as_configured.is_none());
        let endpoints = endpoints.map(|endpoint| Target::Endpoint(*endpoint));
        let mut targets: Vec<Target> =
            std::iter::once(Target::Configured).chain(endpoints).collect();
        // Stable: the order of those that are equally promising stays.
        targets.sort_by_key(|target| {
            let failed = state.failed.iter().position(|failed| failed == target);
            (failed.map_or(0, |position| position + 1), state.good != Some(*target))
        });
        targets
    }

    /// A connection was made, with TLS where that is used.
    pub(super) fn reached(&self, target: Target) {
        let mut state = self.lock();
        state.good = Some(target);
        state.reached = true;
        state.failed.retain(|failed| *failed != target);
    }

    /// A server that was reached went silent or away. Without its address, it is what was reached
    /// last.
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
        // Nothing in here is ever half done.
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
    fn what_would_help_is_said_until_the_service_address_worked_or_always_if_nothing_else_is_dialled()
     {
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
