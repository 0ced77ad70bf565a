//! Classes of traffic in the plan.

use super::*;

#[test]
fn classes_of_traffic_follow_this_nodes_zone() {
    let mut index = serving();
    let endpoints = vec![
        endpoint("10.0.0.1").on("there").in_zone("zone-1"),
        endpoint("10.0.0.2").on("elsewhere").in_zone("zone-2"),
        endpoint("10.0.0.3").on("here").in_zone("zone-1"),
    ];
    index.apply(Event::Apply(sourced(slice("web-1", "web", endpoints))));
    let classes = |index: &mut Index| {
        let plan = index.plan();
        let backends = plan.frontends.iter().flat_map(|frontend| frontend.backends.iter());
        backends.map(|backend| backend.traffic_class.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(classes(&mut index), "same-zone other-zone same-node");
    index.apply(Event::Apply(sourced(node("here", Some("zone-2")))));
    assert_eq!(classes(&mut index), "other-zone same-zone same-node");
    index.apply(Event::Apply(sourced(node("here", None))));
    assert_eq!(classes(&mut index), "unknown unknown same-node");
}
