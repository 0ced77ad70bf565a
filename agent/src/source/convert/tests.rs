use serde_json::{Value, json};

use crate::{
    model::object::{self, Kind, Object, Protocol, TrafficPolicy},
    source::{Event, Sourced, convert::Convert, decode::decode},
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
    sourced.problems.iter().map(|problem| problem.field.as_str()).collect()
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
fn an_object_that_is_not_ours_any_more_is_gone() {
    let mut object = k8s_openapi::api::core::v1::Service::default();
    object.metadata.namespace = Some("ns".to_owned());
    object.metadata.name = Some("web".to_owned());
    assert_eq!(object.applied(), Event::Delete(object.reference()));
}

/// Each wrong field is named and costs the elements that `left` no longer counts:
/// (ports, cluster IPs, external IPs, load-balancer IPs).
#[test]
fn a_wrong_field_of_a_service_is_named_and_costs_only_its_element() {
    let long = "x".repeat(64);
    let cases = [
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 0}]}),
            "spec.ports[1].port",
            (1, 1, 0, 0),
        ),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 70000}]}),
            "spec.ports[1].port",
            (1, 1, 0, 0),
        ),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": -1}]}),
            "spec.ports[1].port",
            (1, 1, 0, 0),
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 70000}]}),
            "spec.ports[0].nodePort",
            (1, 1, 0, 0),
        ),
        (
            json!({"ports": [{"port": 80}, {"name": "b", "port": 81, "protocol": "QUIC"}]}),
            "spec.ports[1].protocol",
            (1, 1, 0, 0),
        ),
        (
            json!({"ports": [{"port": 80}, {"name": long, "port": 81}]}),
            "spec.ports[1].name",
            (1, 1, 0, 0),
        ),
        (json!({"ports": [{"port": 80}, {"port": 81}]}), "spec.ports[1].name", (1, 1, 0, 0)),
        (json!({"clusterIPs": ["10.96.0.1", "10.96.0.2"]}), "spec.clusterIPs[1]", (1, 1, 0, 0)),
        (json!({"clusterIPs": ["10.96.0.1", "fd00::g"]}), "spec.clusterIPs[1]", (1, 1, 0, 0)),
        (
            json!({"clusterIPs": ["10.96.0.1", "::ffff:10.96.0.2"]}),
            "spec.clusterIPs[1]",
            (1, 1, 0, 0),
        ),
        (json!({"externalIPs": ["1.2.3.4", "1.2.3"]}), "spec.externalIPs[1]", (1, 1, 1, 0)),
        (json!({"externalIPs": ["1.2.3.4", "0.0.0.0"]}), "spec.externalIPs[1]", (1, 1, 1, 0)),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/33"]}),
            "spec.loadBalancerSourceRanges[0]",
            (1, 1, 0, 0),
        ),
        (json!({"internalTrafficPolicy": "Near"}), "spec.internalTrafficPolicy", (1, 1, 0, 0)),
        (json!({"externalTrafficPolicy": "local"}), "spec.externalTrafficPolicy", (1, 1, 0, 0)),
        (json!({"sessionAffinity": "Cookie"}), "spec.sessionAffinity", (1, 1, 0, 0)),
    ];
    for (spec, field, left) in cases {
        let sourced = service(json!({"spec": spec.clone()})).expect("ours");
        assert_eq!(fields(&sourced), [field], "{spec}");
        assert_eq!(sourced.problems[0].object, "Service ns/web", "{spec}");
        let s = as_service(Some(sourced));
        let sizes =
            (s.ports.len(), s.cluster_ips.len(), s.external_ips.len(), s.load_balancer_ips.len());
        assert_eq!(sizes, left, "{spec}");
    }
}

#[test]
fn a_service_without_anything_valid_to_serve_is_unusable() {
    let cases = [
        (json!({"ports": []}), "spec.ports"),
        (json!({"ports": null}), "spec.ports"),
        (json!({"ports": [{"port": 0}]}), "spec.ports"),
        (json!({"clusterIP": "cluster", "clusterIPs": null}), "spec.clusterIP"),
        (json!({"clusterIP": "224.0.0.1", "clusterIPs": null}), "spec.clusterIP"),
    ];
    for (spec, field) in cases {
        let sourced = service(json!({"spec": spec.clone()})).expect("ours");
        assert_eq!(sourced.object, None, "{spec}");
        assert!(fields(&sourced).contains(&field), "{spec}: {:?}", sourced.problems);
    }
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
        assert_eq!(sourced.problems[0].object, "Service ns/web", "{ports}");
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
        assert_eq!(sourced.problems[0].object, "Service ns/web", "{patch}");
    }
}

#[test]
fn an_object_that_is_wrong_throughout_is_given_up() {
    let ports = vec![json!({"port": "abc"}); 1000];
    let sourced = service(json!({"spec": {"ports": ports}})).expect("ours");
    assert_eq!(sourced.object, None);
    assert!(sourced.problems.len() < 100, "{} problems", sourced.problems.len());
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
            assert_eq!(sourced.problems.is_empty(), valid, "{metadata}");
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
fn affinity_has_the_apis_default_and_limits() {
    let cases = [
        (json!({}), None, 0),
        (json!({"sessionAffinity": "None"}), None, 0),
        (json!({"sessionAffinity": "ClientIP"}), Some(10_800), 0),
        (affinity(1), Some(1), 0),
        (affinity(86_400), Some(86_400), 0),
        (affinity(0), Some(10_800), 1),
        (affinity(86_401), Some(10_800), 1),
        (affinity(-1), Some(10_800), 1),
    ];
    for (spec, expected, problems) in cases {
        let sourced = service(json!({"spec": spec.clone()})).expect("ours");
        assert_eq!(sourced.problems.len(), problems, "{spec}");
        assert_eq!(as_service(Some(sourced)).affinity_seconds, expected, "{spec}");
    }
}

fn affinity(timeout: i64) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}},
    })
}

#[test]
fn source_ranges_count_for_their_family() {
    let cases = [
        (json!([]), [false, false]),
        (json!([" 10.0.0.0/8 "]), [true, false]),
        (json!(["fd00::/8"]), [false, true]),
        (json!(["10.0.0.0/8", "fd00::/8"]), [true, true]),
        // Never opened by a typo.
        (json!(["10.0.0.0"]), [true, true]),
    ];
    for (ranges, expected) in cases {
        let spec = json!({"spec": {"loadBalancerSourceRanges": ranges.clone()}});
        assert_eq!(as_service(service(spec)).source_ranges, expected, "{ranges}");
    }
}

#[test]
fn only_vip_load_balancer_addresses_count() {
    let ingress = json!([
        {"ip": "203.0.113.1"},
        {"ip": "203.0.113.2", "ipMode": "VIP"},
        {"ip": "203.0.113.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
        {"ip": "lb"},
    ]);
    let sourced = service(json!({"status": {"loadBalancer": {"ingress": ingress}}})).expect("ours");
    assert_eq!(fields(&sourced), ["status.loadBalancer.ingress[4].ip"]);
    let ips: Vec<_> =
        as_service(Some(sourced)).load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["203.0.113.1", "203.0.113.2"]);
}

#[test]
fn a_service_carries_its_age_and_policies() {
    let service = as_service(service(json!({
        "metadata": {"creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "ports": [
                {"port": 80, "nodePort": 0},
                {"name": "u", "port": 53, "nodePort": 30053, "protocol": "UDP"},
            ],
        },
    })));
    assert_eq!(service.created, Some(60));
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.ports[0].node_port, None);
    assert_eq!(
        (service.ports[1].node_port, service.ports[1].protocol),
        (Some(30053), Protocol::Udp)
    );
}

#[test]
fn ipv4_with_leading_zeros_is_read_as_decimal() {
    let service = as_service(service(json!({"spec": {"externalIPs": ["010.000.0.08"]}})));
    assert_eq!(service.external_ips[0].to_string(), "10.0.0.8");
}

#[test]
fn a_wrong_field_of_a_slice_is_named_and_costs_only_its_element() {
    let good = json!({"addresses": ["10.0.0.1"]});
    let endpoints = |wrong: Value| json!({"endpoints": [good.clone(), {"addresses": wrong}]});
    let ports = |wrong: Value| json!({"ports": [{"name": "http", "port": 8080}, wrong]});
    let cases = [
        (endpoints(json!(["fd00::1"])), "endpoints[1].addresses[0]"),
        (endpoints(json!(["0.0.0.0"])), "endpoints[1].addresses[0]"),
        (endpoints(json!(["224.0.0.1"])), "endpoints[1].addresses[0]"),
        (endpoints(json!(["::ffff:10.0.0.1"])), "endpoints[1].addresses[0]"),
        (endpoints(json!(["10.0.0"])), "endpoints[1].addresses[0]"),
        (endpoints(json!([])), "endpoints[1].addresses"),
        (ports(json!({"name": "b", "port": 0})), "ports[1].port"),
        (ports(json!({"name": "b", "port": 70000})), "ports[1].port"),
        (ports(json!({"name": "b"})), "ports[1].port"),
        (ports(json!({"name": "b", "port": 1, "protocol": "tcp"})), "ports[1].protocol"),
        (ports(json!({"name": "x".repeat(64), "port": 1})), "ports[1].name"),
    ];
    for (patch, field) in cases {
        let sourced = slice(patch.clone()).expect("ours");
        assert_eq!(fields(&sourced), [field], "{patch}");
        let slice = as_slice(Some(sourced));
        assert_eq!((slice.endpoints.len(), slice.ports.len()), (1, 1), "{patch}");
    }
}

#[test]
fn a_slice_of_an_unknown_address_type_is_unusable() {
    let sourced = slice(json!({"addressType": "IPv5"})).expect("ours");
    assert_eq!((sourced.object.is_none(), fields(&sourced)), (true, vec!["addressType"]));
}

#[test]
fn a_slice_without_ports_or_endpoints_is_valid() {
    for patch in [json!({"endpoints": null}), json!({"ports": null}), json!({"endpoints": []})] {
        let sourced = slice(patch.clone()).expect("ours");
        assert!(sourced.problems.is_empty() && sourced.object.is_some(), "{patch}: {sourced:?}");
    }
    let nulls = json!({
        "metadata": {"name": "s", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": null, "endpoints": null,
    });
    let sourced = decode(Kind::EndpointSlice, &nulls).expect("ours");
    assert!(sourced.problems.is_empty() && sourced.object.is_some(), "{sourced:?}");
}

#[test]
fn loopback_endpoints_are_accepted_for_local_trials() {
    let slice = as_slice(slice(json!({"endpoints": [{"addresses": ["127.0.0.1"]}]})));
    assert!(slice.endpoints[0].address.is_loopback());
}

#[test]
fn conditions_that_are_not_given_have_the_apis_defaults() {
    let cases = [
        (json!({}), (true, true, false)),
        (json!({"ready": false}), (false, true, false)),
        (json!({"ready": false, "serving": false, "terminating": true}), (false, false, true)),
    ];
    for (conditions, expected) in cases {
        let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": conditions.clone()});
        let slice = as_slice(slice(json!({"endpoints": [endpoint]})));
        let e = &slice.endpoints[0];
        assert_eq!((e.ready, e.serving, e.terminating), expected, "{conditions}");
    }
}

#[test]
fn an_endpoint_carries_its_node_and_hints() {
    let slice = as_slice(slice(json!({"endpoints": [{
        "addresses": ["10.0.0.1", "10.0.0.9"],
        "nodeName": "here",
        "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "here"}]},
    }]})));
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.address.to_string(), "10.0.0.1");
    assert_eq!(endpoint.node.as_deref(), Some("here"));
    assert!(endpoint.zone_hints.iter().map(|zone| &**zone).eq(["z1", "z2"]));
    assert!(endpoint.node_hints.iter().map(|node| &**node).eq(["here"]));
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
