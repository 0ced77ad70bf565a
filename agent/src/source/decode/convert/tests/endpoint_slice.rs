use super::*;

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
        assert!(
            sourced.input_errors.is_empty() && sourced.object.is_some(),
            "{patch}: {sourced:?}"
        );
    }
    let nulls = json!({
        "metadata": {"name": "s", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": null, "endpoints": null,
    });
    let sourced = decode(Kind::EndpointSlice, &nulls).expect("ours");
    assert!(sourced.input_errors.is_empty() && sourced.object.is_some(), "{sourced:?}");
}

#[test]
fn loopback_endpoints_are_accepted_for_local_tests() {
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
fn an_endpoint_carries_its_node_its_zone_and_hints() {
    let slice = as_slice(slice(json!({"endpoints": [{
        "addresses": ["10.0.0.1", "10.0.0.9"],
        "nodeName": "here",
        "zone": "z3",
        "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "here"}]},
    }]})));
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.address.to_string(), "10.0.0.1");
    assert_eq!(endpoint.node.as_deref(), Some("here"));
    assert_eq!(endpoint.zone.as_deref(), Some("z3"));
    let hints = endpoint.hints.as_ref().unwrap();
    assert!(hints.zones.iter().map(|zone| &**zone).eq(["z1", "z2"]));
    assert!(hints.nodes.iter().map(|node| &**node).eq(["here"]));
}

#[test]
fn an_endpoint_without_a_zone_has_none() {
    for zone in [json!(null), json!("")] {
        let endpoint = json!({"addresses": ["10.0.0.1"], "zone": zone});
        let slice = as_slice(slice(json!({"endpoints": [endpoint]})));
        assert_eq!(slice.endpoints[0].zone, None, "{zone}");
    }
}

#[test]
fn a_slice_has_no_more_endpoints_than_the_api_allows() {
    let endpoints = vec![json!({"addresses": ["10.0.0.1"]}); 1001];
    let sourced = slice(json!({"endpoints": endpoints})).expect("ours");
    let told = "EndpointSlice ns/web-1: endpoints: 1001 of them; only the first 1000 are used";
    assert_eq!(sourced.input_errors[0].to_string(), told);
    assert_eq!(as_slice(Some(sourced)).endpoints.len(), 1000);
}
