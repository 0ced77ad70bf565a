mod endpoint_slice;
mod service;

use serde_json::{Value, json};

use crate::{
    model::object::{self, Kind, Object, Protocol, TrafficPolicy},
    source::{
        Sourced,
        decode::{convert::Convert, decode},
    },
};

/// A valid Service with `patch` merged into it (RFC 7386: null removes).
fn service(patch: Value) -> Option<Sourced> {
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "ports": [{"name": "http", "port": 80}],
        },
    });
    merge(&mut value, patch);
    decode(Kind::Service, &value)
}

fn slice(patch: Value) -> Option<Sourced> {
    let mut value = json!({
        "metadata": {
            "namespace": "ns",
            "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    });
    merge(&mut value, patch);
    decode(Kind::EndpointSlice, &value)
}

fn node(patch: Value) -> Option<Sourced> {
    let mut value = json!({"metadata": {"name": "here"}});
    merge(&mut value, patch);
    decode(Kind::Node, &value)
}

fn merge(value: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (key, patch) in patch {
                if patch.is_null() {
                    value.as_object_mut().unwrap().remove(&key);
                } else {
                    merge(&mut value[key], patch);
                }
            }
        }
        other => *value = other,
    }
}

fn as_service(sourced: Option<Sourced>) -> object::Service {
    match sourced.expect("ours").object {
        Some(Object::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

fn as_slice(sourced: Option<Sourced>) -> object::EndpointSlice {
    match sourced.expect("ours").object {
        Some(Object::EndpointSlice(slice)) => slice,
        other => panic!("{other:?}"),
    }
}

fn fields(sourced: &Sourced) -> Vec<&str> {
    sourced.input_errors.iter().map(|input_error| input_error.field.as_str()).collect()
}

#[test]
fn what_kube_proxy_does_not_see_is_not_ours() {
    let proxy = json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}});
    let headless = json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}});
    let services = [
        proxy.clone(),
        headless.clone(),
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"clusterIP": "", "clusterIPs": []}}),
        json!({"spec": {"clusterIP": null, "clusterIPs": null}}),
        json!({"spec": {"type": "ExternalName"}}),
        json!({"spec": null}),
    ];
    for patch in services {
        assert_eq!(service(patch.clone()), None, "{patch}");
    }
    let slices = [
        proxy,
        headless,
        json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
        json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}}),
        json!({"metadata": {"labels": null}}),
    ];
    for patch in slices {
        assert_eq!(slice(patch.clone()), None, "{patch}");
    }
}

#[test]
fn an_object_without_a_cluster_ip_is_not_ours() {
    let mut object = k8s_openapi::api::core::v1::Service::default();
    object.metadata.namespace = Some("ns".to_owned());
    object.metadata.name = Some("web".to_owned());
    assert_eq!(object.convert(), None);
}

#[test]
fn a_value_of_the_wrong_type_is_named_and_costs_only_its_element() {
    for port in [json!("abc"), json!(99_999_999_999_u64), json!(80.5), json!([]), json!({})] {
        let ports = json!([{"name": "a", "port": port}, {"name": "b", "port": 81}, 7, {"port": 0}]);
        let sourced = service(json!({"spec": {"ports": ports.clone()}})).expect("ours");
        assert_eq!(
            fields(&sourced),
            ["spec.ports[0].port", "spec.ports[2]", "spec.ports[3].port"],
            "{ports}"
        );
        assert_eq!(sourced.input_errors[0].object.as_str(), "Service ns/web", "{ports}");
        assert_eq!(as_service(Some(sourced)).ports.len(), 1, "{ports}");
    }
    let sourced = service(json!({"spec": {"externalIPs": [1, "1.2.3.4", {}]}})).expect("ours");
    assert_eq!(fields(&sourced), ["spec.externalIPs[0]", "spec.externalIPs[2]"]);
    assert_eq!(as_service(Some(sourced)).external_ips.len(), 1);
    let endpoints = json!([{"addresses": "10.0.0.1"}, {"addresses": ["10.0.0.2"]}, null]);
    let sourced = slice(json!({"endpoints": endpoints})).expect("ours");
    assert_eq!(fields(&sourced), ["endpoints[0].addresses", "endpoints[2]"]);
    assert_eq!(as_slice(Some(sourced)).endpoints.len(), 1);
}

#[test]
fn a_value_of_the_wrong_type_outside_a_list_costs_the_object() {
    for (patch, field) in [
        (json!({"spec": {"ports": 80}}), "spec.ports"),
        (json!({"spec": {"clusterIP": 10}}), "spec.clusterIP"),
        (json!({"metadata": {"creationTimestamp": "yesterday"}}), "metadata.creationTimestamp"),
        (json!({"spec": []}), "spec"),
    ] {
        let sourced = service(patch.clone()).expect("told");
        assert_eq!((&sourced.object, fields(&sourced)), (&None, vec![field]), "{patch}");
        assert_eq!(sourced.input_errors[0].object.as_str(), "Service ns/web", "{patch}");
    }
}

#[test]
fn an_object_that_is_wrong_throughout_is_given_up() {
    let ports = vec![json!({"port": "abc"}); 1000];
    let sourced = service(json!({"spec": {"ports": ports}})).expect("ours");
    assert_eq!(sourced.object, None);
    assert!(sourced.input_errors.len() < 100, "{} input errors", sourced.input_errors.len());
}

#[test]
fn names_of_253_characters_are_fine_and_longer_ones_are_not() {
    for (namespace, name, valid) in
        [(63, 253, true), (253, 253, true), (63, 254, false), (254, 63, false)]
    {
        let (namespace, name) = ("n".repeat(namespace), "s".repeat(name));
        let metadata = json!({"namespace": namespace, "name": name});
        for sourced in [
            service(json!({"metadata": metadata.clone()})).expect("ours"),
            slice(json!({"metadata": metadata.clone()})).expect("ours"),
        ] {
            assert_eq!(sourced.object.is_some(), valid, "{metadata}");
            assert_eq!(sourced.input_errors.is_empty(), valid, "{metadata}");
        }
    }
    let sourced = node(json!({"metadata": {"name": "n".repeat(254)}})).expect("ours");
    assert_eq!(fields(&sourced), ["metadata.name"]);
}

#[test]
fn a_name_that_cannot_be_one_is_refused() {
    for name in ["", "a/b", "a b", "a\nb", "\u{1b}[31m"] {
        let sourced = service(json!({"metadata": {"name": name}})).expect("ours");
        assert_eq!(sourced.object, None, "{name:?}");
        assert_eq!(fields(&sourced), ["metadata.name"], "{name:?}");
    }
}

#[test]
fn a_node_carries_its_zone_and_its_addresses_but_not_its_host_names() {
    let sourced = node(json!({
        "metadata": {"labels": {"topology.kubernetes.io/zone": "z1"}, "namespace": "ignored"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "Hostname", "address": "here"},
            {"type": "ExternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "here"},
        ]},
    }))
    .expect("ours");
    assert_eq!(fields(&sourced), ["status.addresses[3].address"]);
    assert_eq!(sourced.reference.to_string(), "Node here");
    let Some(Object::Node(node)) = sourced.object else { panic!("no node") };
    assert_eq!(node.zone.as_deref(), Some("z1"));
    assert_eq!(node.addresses.len(), 2);
}

fn pod(patch: Value) -> Sourced {
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": "web-0", "uid": "0b7e"},
        "spec": {"nodeName": "here"},
        "status": {"phase": "Running"},
    });
    merge(&mut value, patch);
    decode(Kind::Pod, &value).expect("ours")
}

fn as_pod(sourced: Sourced) -> object::Pod {
    match sourced.object {
        Some(Object::Pod(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_asks_to_be_excluded_by_label_or_annotation() {
    use object::Redirect::{Disabled, Enabled};
    for (label, annotation, expected) in [
        (None, None, None),
        (Some("disabled"), None, Some(Disabled)),
        (None, Some("disabled"), Some(Disabled)),
        (Some("enabled"), Some("disabled"), Some(Disabled)),
        (Some("disabled"), Some("enabled"), Some(Disabled)),
        (Some("enabled"), None, Some(Enabled)),
        (None, Some("enabled"), Some(Enabled)),
    ] {
        let sourced = pod(json!({"metadata": {
            "labels": {"sockline.dev/redirect": label},
            "annotations": {"sockline.dev/redirect": annotation},
        }}));
        assert_eq!(sourced.input_errors, [], "{label:?} {annotation:?}");
        assert_eq!(as_pod(sourced).redirect, expected, "{label:?} {annotation:?}");
    }
}

#[test]
fn a_redirect_that_is_neither_enabled_nor_disabled_is_reported_and_ignored() {
    let metadata = json!({"metadata": {"annotations": {"sockline.dev/redirect": "off"}}});
    let sourced = pod(metadata.clone());
    assert_eq!(fields(&sourced), ["metadata.annotations[sockline.dev/redirect]"]);
    assert_eq!(as_pod(sourced).redirect, None);
    let sourced = service(metadata).expect("ours");
    assert!(sourced.input_errors[0].message.starts_with("\"off\" is neither"), "{sourced:?}");
    assert_eq!(as_service(Some(sourced)).redirect, object::Redirect::Enabled);
}

#[test]
fn a_service_is_excluded_by_annotation_only() {
    let annotated = json!({"metadata": {"annotations": {"sockline.dev/redirect": "disabled"}}});
    assert_eq!(as_service(service(annotated)).redirect, object::Redirect::Disabled);
    let labelled = json!({"metadata": {"labels": {"sockline.dev/redirect": "disabled"}}});
    assert_eq!(as_service(service(labelled)).redirect, object::Redirect::Enabled);
}

#[test]
fn the_mirror_of_a_static_pod_has_its_cgroup_under_the_config_hash() {
    assert_eq!(&*as_pod(pod(json!({}))).cgroup_uid, "0b7e");
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.hash": "c0ffee"}}});
    assert_eq!(&*as_pod(pod(mirror)).cgroup_uid, "c0ffee");
    let sourced = pod(json!({"metadata": {"uid": null}}));
    assert_eq!((fields(&sourced), &sourced.object), (vec!["metadata.uid"], &None));
}

#[test]
fn a_namespace_carries_only_whether_its_pods_are_excluded() {
    let metadata = json!({"name": "mesh", "labels": {"sockline.dev/redirect": "disabled"}});
    let sourced = decode(Kind::Namespace, &json!({"metadata": metadata})).expect("ours");
    let Some(Object::Namespace(namespace)) = sourced.object else { panic!("no namespace") };
    assert_eq!((&*namespace.name, namespace.redirect), ("mesh", object::Redirect::Disabled));
    assert_eq!(sourced.reference.to_string(), "Namespace mesh");
}
