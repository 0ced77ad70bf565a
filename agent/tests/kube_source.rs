//! The Kubernetes source against a stand-in API server: each test is a scene that a real one plays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/api.rs"]
mod api;
#[path = "support/world.rs"]
mod world;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use api::{
    Api, Ending, Reply, SERVICE, bookmark, error_event, event, initial_end, page, recorded,
    service, services, status,
};
use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};
use sockline::{
    model::object::{Kind, ObjectName, ObjectRef, Problem},
    source::{
        Event, Sourced,
        kube::{Convert, client, watch},
        stats::SourceStats,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use world::World;

const CONVERT: Convert = Convert {
    // As the real one does: a headless service is not ours.
    service: |o| {
        let headless = o.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"));
        (!headless).then(|| sourced(Kind::Service, &o.metadata, String::new()))
    },
    endpoint_slice: |o: EndpointSlice| {
        let addresses = o.endpoints.iter().flatten().flat_map(|e| &e.addresses);
        let addresses = addresses.map(String::as_str).collect::<Vec<_>>().join(" ");
        Some(sourced(Kind::EndpointSlice, &o.metadata, addresses))
    },
    node: |o| Some(sourced(Kind::Node, &o.metadata, String::new())),
    namespace: |o| Some(sourced(Kind::Namespace, &o.metadata, String::new())),
    pod: |o| Some(sourced(Kind::Pod, &o.metadata, String::new())),
};

/// Keeps the resource version and a mark where the tests can see them.
fn sourced(kind: Kind, metadata: &ObjectMeta, mark: String) -> Sourced {
    let name = metadata.name.as_deref().unwrap();
    let name = ObjectName::new(metadata.namespace.as_deref().unwrap_or_default(), name);
    let object = metadata.resource_version.clone().unwrap_or_default();
    let problem = Problem { object, field: String::new(), message: mark };
    Sourced { reference: ObjectRef { kind, name }, object: None, problems: vec![problem] }
}

struct Watched {
    world: World,
    api: Api,
    stats: Arc<SourceStats>,
    stop: DropGuard,
    _files: TempDir,
}

impl Watched {
    async fn start(api: Api) -> Self {
        let address = api.start().await;
        Self::connect(api, address).await
    }

    async fn connect(api: Api, address: SocketAddr) -> Self {
        let (files, kubeconfig) = kubeconfig(address);
        let client = client(Some(&kubeconfig)).await.unwrap();
        let (sender, events) = mpsc::channel(64);
        let (stats, stop) = (Arc::new(SourceStats::default()), CancellationToken::new());
        let (counted, stopped) = (Arc::clone(&stats), stop.clone());
        tokio::spawn(async move {
            watch(client, "node-a", CONVERT, sender, counted, stopped).await;
        });
        Self { world: World::new(events), api, stats, stop: stop.drop_guard(), _files: files }
    }

    async fn until_services(&mut self, expected: &[&str]) {
        let expected: Vec<_> = expected.iter().map(|name| format!("Service shop/{name}")).collect();
        self.world
            .until(&format!("{expected:?}"), |world| {
                world.listed.contains(&Kind::Service)
                    && service_names(world).eq(expected.iter().map(String::as_str))
            })
            .await;
    }

    async fn until_trouble(&mut self, about: &str) {
        self.world.until(about, |world| world.trouble().contains(about)).await;
    }

    async fn until_quiet(&mut self) {
        self.world.until("end of the trouble", |world| world.trouble.is_empty()).await;
    }

    fn replaced(&self, kind: Kind) -> Vec<Vec<String>> {
        let lists = self.world.log.iter().filter_map(|event| match event {
            Event::Replace(k, objects) if *k == kind => Some(objects),
            _ => None,
        });
        lists.map(|l| l.iter().map(|o| o.reference.name.name.to_string()).collect()).collect()
    }

    fn never_troubled(&self) {
        let troubled = self.world.log.iter().any(|event| matches!(event, Event::Trouble(_)));
        assert!(!troubled, "{:?}", self.world.log);
    }
}

fn service_names(world: &World) -> impl Iterator<Item = &str> {
    world.objects.keys().map(String::as_str).filter(|name| name.starts_with("Service "))
}

fn kubeconfig(server: SocketAddr) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    (dir, path)
}

fn open(lines: impl Into<String>) -> Reply {
    Reply::Watch(lines.into(), Ending::Open)
}

fn closed(lines: impl Into<String>) -> Reply {
    Reply::Watch(lines.into(), Ending::Close)
}

fn refused(code: u16, reason: &str, message: &str) -> Reply {
    Reply::Whole(code, status(code, reason, message))
}

/// What a recorded watch leaves, by the plainest reading of it.
fn outcome(lines: &str) -> BTreeMap<String, String> {
    let mut left = BTreeMap::new();
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap() {
            "ADDED" | "MODIFIED" => {
                left.insert(name, metadata["resourceVersion"].as_str().unwrap().to_owned());
            }
            "DELETED" => {
                left.remove(&name);
            }
            _ => {}
        }
    }
    left
}

fn slices(world: &World) -> BTreeMap<String, String> {
    let slices = world.objects.values().filter(|o| o.reference.kind == Kind::EndpointSlice);
    slices.map(|o| (o.reference.name.name.to_string(), o.problems[0].object.clone())).collect()
}

const TOO_OLD: &str = "too old resource version: 20 (687)";

#[tokio::test]
async fn the_requests_select_what_is_ours_and_say_who_asks() {
    let mut watched = Watched::start(Api::default()).await;
    watched.world.until_listed().await;
    let proxy = "!service.kubernetes.io/service-proxy-name";
    let slices = format!("{proxy},!service.kubernetes.io/headless");
    for (resource, labels, fields) in [
        ("services", proxy, "spec.clusterIP!=None"),
        ("endpointslices", slices.as_str(), ""),
        ("nodes", "", "metadata.name=node-a"),
    ] {
        let asked = &watched.api.asked(resource)[0];
        assert_eq!(asked.get("labelSelector"), labels, "{asked:?}");
        assert_eq!(asked.get("fieldSelector"), fields, "{asked:?}");
        assert_eq!(asked.get("sendInitialEvents"), "true", "{asked:?}");
        assert_eq!(asked.get("resourceVersionMatch"), "NotOlderThan", "{asked:?}");
        assert_eq!(asked.get("allowWatchBookmarks"), "true", "{asked:?}");
        assert_eq!(asked.agent, concat!("sockline/", env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test]
async fn the_recorded_streaming_list_ends_as_recorded() {
    let wire = recorded("watch-list.jsonl");
    let mut watched =
        Watched::start(Api::default().reply("endpointslices", open(wire.as_str()))).await;
    let end = outcome(&wire);
    watched.world.until("the recorded outcome", |world| slices(world) == end).await;
    let initial = wire.lines().take_while(|line| !line.contains("initial-events-end")).count();
    assert_eq!(watched.replaced(Kind::EndpointSlice)[0].len(), initial);
    let counted = watched.stats.kind(Kind::EndpointSlice);
    assert_eq!(counted.relisted.load(Relaxed), 1);
    assert_eq!(counted.deleted.load(Relaxed), 1);
    watched.never_troubled();
}

#[tokio::test]
async fn the_recorded_watch_resumed_after_the_list_ends_as_recorded() {
    let (list, changes) = (recorded("watch-list.jsonl"), recorded("watch.jsonl"));
    let end = list.find("initial-events-end").unwrap();
    let end = end + list[end..].find('\n').unwrap() + 1;
    let api = Api::default()
        .reply("endpointslices", closed(&list[..end]))
        .reply("endpointslices", open(changes.as_str()));
    let mut watched = Watched::start(api).await;
    let expected = outcome(&(list[..end].to_owned() + &changes));
    watched.world.until("the recorded outcome", |world| slices(world) == expected).await;
    let asked = watched.api.asked("endpointslices");
    assert_eq!(asked[1].get("resourceVersion"), "563", "{asked:?}");
    assert_eq!(asked[1].get("sendInitialEvents"), "", "{asked:?}");
    watched.never_troubled();
}

#[tokio::test]
async fn the_recorded_expiry_leads_to_a_new_list_where_a_deleted_object_vanishes() {
    let api = Api::default()
        .reply("services", closed(services(&["cart", "web"], "20")))
        .reply("services", closed(recorded("watch-expired.jsonl")))
        .reply("services", open(services(&["web"], "700")));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["web"]).await;
    // Two lists and nothing else: neither an empty moment nor a single delete.
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"], vec!["web"]]);
    let asked = watched.api.asked("services");
    assert_eq!(asked[1].get("resourceVersion"), "20", "{asked:?}");
    assert_eq!(asked[2].get("sendInitialEvents"), "true", "{asked:?}");
    watched.never_troubled();
}

#[tokio::test]
async fn an_expiry_in_mid_watch_leads_to_a_new_list() {
    let mut lines = services(&["cart", "web"], "20");
    lines += &event("ADDED", &service("extra", "21"));
    lines += &error_event(410, "Expired", TOO_OLD);
    let api = Api::default()
        .reply("services", open(lines))
        .reply("services", open(services(&["cart"], "700")));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart"]).await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"], vec!["cart"]]);
}

#[tokio::test]
async fn an_expiry_told_by_the_http_status_leads_to_a_new_list() {
    let api = Api::default()
        .reply("services", closed(services(&["cart", "web"], "20")))
        .reply("services", refused(410, "Expired", TOO_OLD))
        .reply("services", open(services(&["web"], "700")));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["web"]).await;
    watched.never_troubled();
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_in_pages() {
    let words = "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: \
                 resourceVersionMatch is forbidden for watch, sendInitialEvents: Forbidden: \
                 sendInitialEvents is forbidden for watch unless the WatchList feature gate is \
                 enabled]";
    let api = Api::default()
        .reply("services", refused(422, "Invalid", words))
        .reply("services", Reply::Whole(200, page(&["cart"], "7", "more")))
        .reply("services", Reply::Whole(200, page(&["web"], "7", "")))
        .reply("services", open(event("ADDED", &service("extra", "8"))));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart", "extra", "web"]).await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"]]);
    let asked = watched.api.asked("services");
    assert_eq!((asked[1].get("limit"), asked[1].get("continue")), ("500", ""));
    assert_eq!((asked[2].get("limit"), asked[2].get("continue")), ("500", "more"));
    for request in &asked {
        assert_eq!(request.get("labelSelector"), asked[0].get("labelSelector"), "{request:?}");
        assert_eq!(request.get("fieldSelector"), "spec.clusterIP!=None", "{request:?}");
    }
    assert!(asked[3].is_watch() && asked[3].get("resourceVersion") == "7", "{asked:?}");
    watched.never_troubled();
}

#[tokio::test]
async fn the_recorded_pages_become_one_list() {
    let mut last: Value = serde_json::from_str(&recorded("list-page-2.json")).unwrap();
    last["metadata"]["continue"] = json!("");
    let api = Api::default()
        .reply("services", refused(400, "BadRequest", "unknown sendInitialEvents"))
        .reply("services", Reply::Whole(200, recorded("list-page-1.json")))
        .reply("services", Reply::Whole(200, last.to_string()));
    let mut watched = Watched::start(api).await;
    watched.world.until_listed().await;
    let lists = watched.replaced(Kind::Service);
    assert_eq!(lists.len(), 1, "{lists:?}");
    let mut names = Vec::new();
    for file in ["list-page-1.json", "list-page-2.json"] {
        let page: Value = serde_json::from_str(&recorded(file)).unwrap();
        for item in page["items"].as_array().unwrap() {
            names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(lists[0], names);
    let first: Value = serde_json::from_str(&recorded("list-page-1.json")).unwrap();
    let asked = watched.api.asked("services");
    assert_eq!(asked[2].get("continue"), first["metadata"]["continue"].as_str().unwrap());
}

#[tokio::test]
async fn a_bad_continue_token_starts_the_list_again() {
    let api = Api::default()
        .reply("services", refused(400, "BadRequest", "unknown sendInitialEvents"))
        .reply("services", Reply::Whole(200, page(&["cart"], "7", "bad")))
        .reply("services", Reply::Whole(400, recorded("bad-continue.json")))
        .reply("services", Reply::Whole(200, page(&["cart", "web"], "9", "")));
    let mut watched = Watched::start(api).await;
    watched.until_trouble("illegal base64 data").await;
    watched.until_services(&["cart", "web"]).await;
    watched.until_quiet().await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"]]);
    assert_eq!(watched.api.asked("services")[3].get("continue"), "");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_field_selector_is_asked_without() {
    let words = "field label \"spec.clusterIP\" not supported for Service";
    let mut headless = service("headless", "20");
    headless["spec"]["clusterIP"] = json!("None");
    let lines = event("ADDED", &service("cart", "7"))
        + &event("ADDED", &headless)
        + &initial_end(SERVICE, "8");
    let api = Api::default()
        .reply("services", refused(400, "BadRequest", words))
        .reply("services", open(lines));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart"]).await;
    let asked = watched.api.asked("services");
    assert_eq!(asked[1].get("fieldSelector"), "", "{asked:?}");
    assert_eq!(asked[1].get("labelSelector"), asked[0].get("labelSelector"), "{asked:?}");
    watched.never_troubled();
}

#[tokio::test]
async fn an_object_that_stops_being_ours_is_deleted() {
    let mut headless = service("web", "21");
    headless["spec"]["clusterIP"] = json!("None");
    let lines = services(&["cart", "web"], "20") + &event("MODIFIED", &headless);
    let mut watched = Watched::start(Api::default().reply("services", open(lines))).await;
    watched.until_services(&["cart"]).await;
    assert_eq!(watched.stats.kind(Kind::Service).deleted.load(Relaxed), 1);
}

#[tokio::test]
async fn a_refusal_names_the_missing_right_and_ends_when_it_is_granted() {
    let words = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:sockline:\
                 agent\" cannot watch resource \"endpointslices\"";
    let api = Api::default().reply("endpointslices", refused(403, "Forbidden", words));
    let mut watched = Watched::start(api).await;
    watched.until_trouble("verbs list and watch on endpointslices.discovery.k8s.io").await;
    assert!(watched.world.trouble().contains(words), "{}", watched.world.trouble());
    watched.world.until_listed().await;
    watched.until_quiet().await;
    assert_eq!(watched.stats.kind(Kind::EndpointSlice).errors.load(Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_within_an_event_is_resumed_behind_the_last_whole_one() {
    let added = event("ADDED", &service("extra", "22"));
    let half = event("ADDED", &service("late", "23"));
    let lines = services(&["cart"], "20") + &added + &half[..half.len() / 2];
    let api = Api::default()
        .reply("services", Reply::Watch(lines, Ending::Break))
        .reply("services", open(half));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart", "extra", "late"]).await;
    let asked = watched.api.asked("services");
    assert_eq!(asked[1].get("resourceVersion"), "22", "{asked:?}");
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart"]]);
    watched.never_troubled();
}

#[tokio::test]
async fn a_list_that_breaks_off_is_not_sent() {
    let half = event("ADDED", &service("cart", "20"));
    let api = Api::default()
        .reply("services", Reply::Watch(half, Ending::Break))
        .reply("services", open(services(&["cart", "web"], "20")));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart", "web"]).await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart", "web"]]);
}

#[tokio::test]
async fn a_bookmark_moves_the_place_to_resume_from() {
    let lines = services(&["cart"], "20") + &bookmark(SERVICE, "90");
    let api = Api::default()
        .reply("services", closed(lines))
        .reply("services", open(event("ADDED", &service("web", "91"))));
    let mut watched = Watched::start(api).await;
    watched.until_services(&["cart", "web"]).await;
    assert_eq!(watched.api.asked("services")[1].get("resourceVersion"), "90");
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_leads_to_a_new_list() {
    let mut odd = service("web", "21");
    odd["spec"]["ports"] = json!("none");
    let lines = services(&["cart"], "20") + &event("ADDED", &odd);
    let api = Api::default()
        .reply("services", open(lines))
        .reply("services", open(services(&["cart", "web"], "30")));
    let mut watched = Watched::start(api).await;
    watched.until_trouble("watch of services").await;
    watched.until_services(&["cart", "web"]).await;
    watched.until_quiet().await;
}

#[tokio::test]
async fn a_watch_that_cannot_be_resumed_for_a_while_keeps_what_is_known() {
    let api = Api::default()
        .reply("services", closed(services(&["cart"], "20")))
        .reply("services", refused(503, "ServiceUnavailable", "shutting down"));
    let mut watched = Watched::start(api).await;
    watched.until_trouble("shutting down (503)").await;
    // Quiet again although nothing was changed since: the resumed connection is proof enough.
    watched.until_quiet().await;
    watched.until_services(&["cart"]).await;
    assert_eq!(watched.replaced(Kind::Service), [vec!["cart"]]);
    assert_eq!(watched.api.asked("services")[2].get("resourceVersion"), "20");
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_waited_for() {
    let place = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let api = Api::default().reply("services", open(services(&["cart"], "20")));
    let mut watched = Watched::connect(api, address).await;
    watched
        .world
        .until("trouble of all three watches", |world| world.trouble.len() == Kind::ALL.len())
        .await;
    assert!(watched.world.trouble().contains("refused"), "{}", watched.world.trouble());
    assert!(watched.world.listed.is_empty(), "{:?}", watched.world.log);
    watched.api.start_on(TcpListener::bind(address).await.unwrap());
    watched.until_services(&["cart"]).await;
    watched.world.until_listed().await;
    watched.until_quiet().await;
}

#[tokio::test]
async fn stopping_ends_the_watches() {
    let mut watched = Watched::start(Api::default()).await;
    watched.world.until_listed().await;
    drop(watched.stop);
    watched.world.until_end().await;
}
