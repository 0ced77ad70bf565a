//! `sockline map` and the metrics of client workloads: what each client of a service did.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use sockline_testbed::{Cluster, Metrics, Ns, Pod, Service, objects};

use crate::common::{eventually, holds};

const WEB: &str = "10.96.0.1:80";
/// Its only endpoint refuses.
const DEAD: &str = "10.96.0.2:80";
const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

/// A pod of the CronJob `shop/report`, a client of the node, and two services.
struct Shop {
    container: Ns,
    client: Pod,
    _web: Pod,
    listener: std::net::TcpListener,
    cluster: Cluster,
}

impl Shop {
    fn new(args: &[&str]) -> Self {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        let listener = web.run(|| std::net::TcpListener::bind("[::]:8080")).unwrap();
        let service = Service::new("web").ip("10.96.0.1").tcp(80).to(8080).endpoints([&web]);
        let dead = Service::new("dead").ip("10.96.0.2").tcp(80).to(9).endpoints([&web]);
        cluster.apply([service, dead]).unwrap();
        let report = objects::Pod::new("shop/report-29412345-x2x7k").uid(UID);
        let report = report.owner("batch/v1", "Job", "report-29412345");
        cluster.apply_objects(vec![report.object()]).unwrap();
        let cgroup = cluster.node().pod_cgroup(UID).unwrap();
        let container = cgroup.container(&client, "app").unwrap();
        Self { container, client, _web: web, listener, cluster }
    }

    /// A connection of the pod, and the server's end of it.
    fn connection_of_pod(&self) -> [TcpStream; 2] {
        let client = self.container.run(|| TcpStream::connect(WEB)).unwrap();
        [client, self.listener.accept().unwrap().0]
    }

    fn fail(&self) {
        self.container.run(|| TcpStream::connect(DEAD)).unwrap_err();
    }

    fn map(&self, args: &[&str]) -> String {
        let map = ["map", "--interval", "100ms"];
        self.cluster.agent().cli(&[&map[..], args].concat()).unwrap()
    }
}

fn service<'a>(map: &'a Value, name: &str) -> &'a Value {
    let all = map["services"].as_array().unwrap();
    let found = all.iter().find(|service| service["service"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {map:#}"))
}

/// The workload of this test's own process.
fn own_workload(kinds: &Value) {
    assert!(kinds == "SystemdService" || kinds == "Node", "{kinds}");
}

#[test]
fn the_map_has_who_connected_and_which_endpoint_took_it() {
    let shop = Shop::new(&[]);
    let open = [shop.connection_of_pod(), shop.connection_of_pod()];
    let other = shop.client.run(|| TcpStream::connect(WEB)).unwrap();
    shop.fail();
    let map: Value = serde_json::from_str(&shop.map(&["-o", "json"])).unwrap();
    let web = service(&map, "web");
    assert_eq!(web["traffic"]["active"], 3, "{map:#}");
    // Processes of the node have no namespace, so they come first.
    let clients = web["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 2, "{map:#}");
    own_workload(&clients[0]["workload"]["kind"]);
    let expected = json!({"namespace": "shop", "kind": "CronJob", "name": "report"});
    assert_eq!(clients[1]["workload"], expected, "{map:#}");
    assert_eq!(
        (&clients[0]["traffic"]["opened"], &clients[1]["traffic"]["opened"]),
        (&json!(1), &json!(2))
    );
    let backends = web["backends"].as_array().unwrap();
    assert_eq!((backends.len(), &backends[0]["traffic"]["opened"]), (1, &json!(3)), "{map:#}");
    // A failed connect ends with its socket, which a child process that another test is starting may hold for a moment.
    eventually("the failure", || {
        let map: Value = serde_json::from_str(&shop.map(&["-o", "json"])).unwrap();
        let dead = service(&map, "dead");
        let failed = [&dead["traffic"]["failed"], &dead["clients"][0]["traffic"]["failed"]];
        holds(failed == [1, 1], format!("{map:#}"))
    });
    let text = shop.map(&["--service", "default/web"]);
    assert!(text.starts_with("node-a  1 service port with traffic, rates over "), "{text}");
    assert!(text.contains("├─ from shop/report (CronJob) "), "{text}");
    assert!(!text.contains("default/dead"), "{text}");
    assert!(shop.map(&["--namespace", "other"]).starts_with("node-a  0 service ports"));
    let dot = shop.map(&["-o", "dot"]);
    assert!(
        dot.contains(r#""client shop/report (CronJob) " -> "service default/web:tcp-80/TCP""#),
        "{dot}"
    );
    assert!(shop.map(&["-o", "svg"]).ends_with("</svg>\n"));
    let error = shop.cluster.agent().cli(&["map", "--service", "a/b", "--interval", "100ms"]);
    assert!(format!("{:#}", error.unwrap_err()).contains("the kernel serves no service a/b"));
    drop((open, other));
}

#[test]
fn rates_are_those_of_the_interval() {
    let shop = Shop::new(&[]);
    for _ in 0..5 {
        drop(shop.connection_of_pod());
    }
    let read = || serde_json::from_str::<Value>(&shop.map(&["-o", "json"])).unwrap();
    // A socket may be closed a moment later by a child process that another test is starting.
    let quiet = eventually("no traffic", || {
        let map = read();
        let web = service(&map, "web").clone();
        let is_quiet = web["traffic"]["active"] == 0;
        holds(is_quiet, format!("{map:#}")).map(|_| web)
    });
    assert_eq!(quiet["traffic"]["opened"], 5);
    assert_eq!(quiet["traffic"]["rates"]["opened"], 0.0);
    // Also when the wait below fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                shop.fail();
            }
        });
        eventually("traffic in the interval", || {
            let map = read();
            let found = map["services"].as_array().unwrap();
            let dead = found.iter().find(|service| service["service"]["name"] == "dead");
            let rate =
                dead.and_then(|dead| dead["clients"][0]["traffic"]["rates"]["opened"].as_f64());
            rate.filter(|rate| *rate > 0.0).map(|_| dead.unwrap().clone()).ok_or(format!("{map:#}"))
        })
    });
    assert!(busy["traffic"]["rates"]["failed"].as_f64().unwrap() > 0.0, "{busy:#}");
}

/// The value of a family for the CronJob and a service.
fn of(metrics: &Metrics, family: &str, name: &str) -> f64 {
    let labels = [
        ("source_workload_namespace", "shop"),
        ("source_workload_kind", "CronJob"),
        ("source_workload", "report"),
        ("service", name),
        ("protocol", "TCP"),
    ];
    metrics.sum(&format!("sockline_client_{family}"), &labels)
}

#[test]
fn the_metrics_of_a_workload_begin_with_the_agent_and_never_fall() {
    let args = ["--metrics-source-workload", "--metrics-dialect", "istio"];
    let mut shop = Shop::new(&args);
    let open = shop.connection_of_pod();
    drop(shop.connection_of_pod());
    shop.fail();
    let expect = |shop: &Shop, expected: [f64; 6]| {
        eventually(&format!("{expected:?}"), || {
            let metrics = Metrics::parse(&shop.cluster.agent().metrics().unwrap());
            let seen = [
                of(&metrics, "connections_opened_total", "web"),
                of(&metrics, "connections_active", "web"),
                of(&metrics, "connections_closed_total", "web"),
                of(&metrics, "connections_opened_total", "dead"),
                of(&metrics, "connections_closed_total", "dead"),
                of(&metrics, "connections_failed_total", "dead"),
            ];
            holds(seen == expected, format!("{seen:?}"))
        });
    };
    expect(&shop, [2.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let metrics = Metrics::parse(&shop.cluster.agent().metrics().unwrap());
    let istio = |family: &str, name: &str, flags: &str| {
        let labels = [
            ("reporter", "source"),
            ("source_workload", "report"),
            ("source_workload_namespace", "shop"),
            ("destination_service", &*format!("{name}.default.svc.cluster.local")),
            ("destination_service_name", name),
            ("destination_service_namespace", "default"),
            ("request_protocol", "tcp"),
            ("response_flags", flags),
            ("connection_security_policy", "unknown"),
            ("destination_workload", "unknown"),
        ];
        metrics.sum(&format!("istio_tcp_{family}_total"), &labels)
    };
    assert_eq!(
        [istio("connections_opened", "web", "-"), istio("connections_closed", "web", "-")],
        [2.0, 1.0]
    );
    assert_eq!(
        [istio("connections_opened", "dead", "-"), istio("connections_closed", "dead", "UF")],
        [1.0, 1.0]
    );
    shop.cluster.restart(|_| {}).unwrap();
    shop.fail();
    // What was open before ends, and did not begin since.
    drop(open);
    expect(&shop, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn without_the_options_there_are_no_metrics_of_workloads() {
    let shop = Shop::new(&[]);
    drop(shop.connection_of_pod());
    let metrics = shop.cluster.agent().metrics().unwrap();
    assert!(!metrics.contains("sockline_client_") && !metrics.contains("istio_"), "{metrics}");
}
