use super::*;

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
        assert_eq!(sourced.input_errors[0].object.as_str(), "Service ns/web", "{spec}");
        let s = as_service(Some(sourced));
        let sizes =
            (s.ports.len(), s.cluster_ips.len(), s.external_ips.len(), s.load_balancer_ips.len());
        assert_eq!(sizes, left, "{spec}");
    }
}

/// With the rest of the service served.
#[test]
fn addresses_that_are_no_services_are_refused_as_external_ips_and_load_balancer_addresses() {
    let special = [
        "127.0.0.1",
        "127.255.255.254",
        "127.000.0.01",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "febf::1",
        "224.0.0.1",
        "239.1.2.3",
        "ff02::1",
        "ff05::2",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:198.51.100.1",
        "fe80::1%eth0",
    ];
    for address in special {
        let external = json!({"spec": {"externalIPs": ["198.51.100.1", address]}});
        let ingress = json!([{"ip": "198.51.100.1"}, {"ip": address}]);
        let balanced = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        for (patch, field) in
            [(external, "spec.externalIPs[1]"), (balanced, "status.loadBalancer.ingress[1].ip")]
        {
            let sourced = service(patch).expect("ours");
            assert_eq!(fields(&sourced), [field], "{address}");
            let told = sourced.input_errors[0].to_string();
            assert!(told.starts_with(&format!("Service ns/web: {field}: {address:?}: ")), "{told}");
            assert!(told.ends_with("; it is skipped"), "{told}");
            let service = as_service(Some(sourced));
            let left = service.external_ips.len() + service.load_balancer_ips.len();
            assert_eq!((left, service.ports.len()), (1, 1), "{address}");
        }
    }
}

#[test]
fn addresses_that_only_look_special_are_served() {
    let ordinary =
        ["128.0.0.1", "169.253.0.1", "240.0.0.1", "255.255.255.254", "fec0::1", "fd00::1"];
    let sourced = service(json!({"spec": {"externalIPs": ordinary}})).expect("ours");
    assert_eq!(sourced.input_errors, []);
    assert_eq!(as_service(Some(sourced)).external_ips.len(), ordinary.len());
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
        assert!(fields(&sourced).contains(&field), "{spec}: {:?}", sourced.input_errors);
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
    for (spec, expected, input_errors) in cases {
        let sourced = service(json!({"spec": spec.clone()})).expect("ours");
        assert_eq!(sourced.input_errors.len(), input_errors, "{spec}");
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
fn a_service_has_no_more_addresses_than_a_service_may_have() {
    let ports: Vec<Value> =
        (0..20_000).map(|n| json!({"name": format!("p{n}"), "port": n + 1})).collect();
    let externals: Vec<String> =
        (0..1000).map(|n| format!("192.0.{}.{}", n / 250, n % 250 + 1)).collect();
    for (spec, expected) in [
        (json!({"ports": ports.clone()}), (16_384, 0)),
        (json!({"ports": ports, "externalIPs": externals}), (63, 256)),
    ] {
        let sourced = service(json!({"spec": spec})).expect("ours");
        assert!(fields(&sourced).contains(&"spec.ports"), "{:?}", sourced.input_errors);
        let service = as_service(Some(sourced));
        assert_eq!((service.ports.len(), service.external_ips.len()), expected);
    }
}

#[test]
fn only_the_first_input_errors_of_an_object_are_reported_and_the_others_counted() {
    let addresses = vec!["nowhere"; 200];
    let sourced = service(json!({"spec": {"externalIPs": addresses}})).expect("ours");
    assert_eq!(sourced.input_errors.len(), 21);
    let last = sourced.input_errors[20].to_string();
    assert_eq!(last, "Service ns/web: 180 more errors of this kind; those fields are skipped");
}

#[test]
fn a_long_value_is_not_told_in_full() {
    let sourced = service(json!({"spec": {"sessionAffinity": "x".repeat(1 << 20)}})).expect("ours");
    let told = sourced.input_errors[0].to_string();
    assert!(told.chars().count() < 600, "{}", told.len());
    assert!(told.ends_with("; taken as None"), "{told}");
}

#[test]
fn a_port_name_that_cannot_be_one_is_refused() {
    for name in ["a b", "a\nb", "\u{202e}a", "ä"] {
        let ports = json!([{"name": "ok", "port": 1}, {"name": name, "port": 2}]);
        let sourced = service(json!({"spec": {"ports": ports}})).expect("ours");
        assert_eq!(fields(&sourced), ["spec.ports[1].name"], "{name:?}");
    }
}
