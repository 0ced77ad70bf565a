//! What holds of every plan and of every input error.

use std::collections::HashSet;

use sockline::model::{
    event::Sourced,
    limits,
    object::{Family, InputError, Object},
    plan::{Action, Frontend, FrontendAddress, FrontendKind, Plan, order},
};

/// A plan can be put into the kernel as it is.
pub fn plan(plan: &Plan) {
    let mut taken = HashSet::new();
    for pair in plan.frontends.windows(2) {
        assert!(order(&pair[0], &pair[1]).is_lt(), "not in order: {pair:?}");
    }
    for frontend in &plan.frontends {
        self::frontend(frontend);
        let claim = (frontend.address, frontend.family, frontend.port, frontend.protocol);
        assert!(taken.insert(claim), "two frontends at one address: {frontend:?}");
    }
    for service in plan.frontends.chunk_by(|a, b| a.service == b.service) {
        let count = service.len();
        assert!(count <= limits::FRONTENDS, "{}: {count} frontends", service[0].service);
    }
}

fn frontend(frontend: &Frontend) {
    let backends = &frontend.backends;
    assert_ne!(frontend.port, 0, "{frontend:?}");
    match frontend.address {
        FrontendAddress::Ip(ip) => {
            assert_eq!(Family::of(ip), frontend.family, "{frontend:?}");
            assert!(!ip.is_unspecified() && !ip.is_multicast(), "{frontend:?}");
        }
        FrontendAddress::Node | FrontendAddress::OtherNodes => {
            assert_eq!(frontend.kind, FrontendKind::NodePort, "{frontend:?}");
        }
    }
    assert_eq!(frontend.action == Action::Forward, !backends.is_empty(), "{frontend:?}");
    assert_eq!(frontend.action == Action::Forward, frontend.reason.is_none(), "{frontend:?}");
    for pair in backends.windows(2) {
        assert!(pair[0] < pair[1], "backends not in order, or twice: {frontend:?}");
    }
    for backend in backends.iter() {
        assert!(backend.port != 0 && backend.weight != 0, "{frontend:?}");
        assert_eq!(Family::of(backend.address), frontend.family, "{frontend:?}");
    }
}

/// An object that is used has the name that it is known by, and one that can be printed.
pub fn sourced(sourced: &Sourced) {
    input_errors(&sourced.input_errors);
    if let Some(object) = &sourced.object {
        assert_eq!(object.reference(), sourced.reference);
        let name = sourced.reference.to_string();
        assert!(name.chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{name:?}");
        if let Object::EndpointSlice(slice) = object {
            assert!(slice.endpoints.len() <= limits::SLICE_ENDPOINTS);
        }
    }
}

/// Problems are few and short, however large what they are about.
pub fn input_errors(input_errors: &[InputError]) {
    for input_error in input_errors {
        let length = input_error.to_string().chars().count();
        assert!(length < 2000, "an input error of {length} characters");
        assert!(!input_error.message.is_empty());
    }
}
