//! Objects of the tests, in the namespace `shop`.

use serde_json::Value;
pub(crate) use sockline_testbed::objects::{namespace, node};
use sockline_testbed::{api::Api, objects};

pub(crate) fn service(name: &str) -> Value {
    // Few names, each with its own address.
    let last = name.bytes().fold(1_u8, u8::wrapping_add);
    objects::web_service(name, &format!("10.96.0.{last}"))
}

/// The slice of a service with these endpoints.
pub(crate) fn slice(service: &str, endpoints: &[&str]) -> Value {
    let addresses: Vec<_> = endpoints.iter().map(|address| address.parse().unwrap()).collect();
    objects::slice(service, &addresses)
}

pub(crate) fn pod(name: &str, node: &str) -> Value {
    objects::Pod::new(&format!("shop/{name}")).node(node).object()
}

/// A cluster with this node and the services, each with an endpoint.
pub(crate) fn cluster(services: &[&str]) -> Api {
    let api = Api::default();
    api.apply(&node());
    for name in services {
        api.apply(&service(name));
        api.apply(&slice(name, &["10.244.1.1"]));
    }
    api
}
