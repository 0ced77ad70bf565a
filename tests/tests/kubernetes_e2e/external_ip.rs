//! External IPs: `service.go`.

use serde_json::json;
use sockline_testbed::Protocol::Tcp;

use crate::{
    kubernetes_cluster::{KubernetesCluster, service},
    pods::Server,
    reach::assert_reaches,
};

/// should be possible to connect to a service via ExternalIP when the external IP is not assigned
/// to a node
#[test]
fn should_be_possible_to_connect_via_external_ip_when_it_is_not_assigned_to_a_node() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut external = service("externalip-test");
    external["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    external["spec"]["externalIPs"] = json!(["203.0.113.250", "2001:db8::cb00:71fa"]);
    cluster.create(external);
    cluster.start_all(["pod1", "pod2"].map(|pod| Server::new(pod, "externalip-test").tcp(80)));
    let ways = ["203.0.113.250:80", "[2001:db8::cb00:71fa]:80"].map(|to| to.parse().unwrap());
    for to in ways.into_iter().chain(cluster.at_each_ip("externalip-test", 80)) {
        assert_reaches(&client, to, Tcp, &["pod1", "pod2"]);
        assert_reaches(cluster.host(0), to, Tcp, &["pod1", "pod2"]);
    }
}
