//! Lists and watches over real connections, with the agent's client.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use kube::Client;
use sockline::{
    model::object::Kind,
    source::{ConnectBypass, Connections, client, config},
};
use sockline_testbed::api::{Api, Cut, Fault, Resource, Server};

use super::{objects, watched::Watched};

fn serve(api: &Api, port: u16) -> Server {
    Server::start(api, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()).unwrap()
}

/// A client that dials the server of its kubeconfig: no programs are attached.
pub(crate) async fn client_of(kubeconfig: &Path) -> Client {
    struct Plain;
    impl ConnectBypass for Plain {
        fn connect(
            &self,
            _cookie: u64,
            connect: &mut dyn FnMut() -> io::Result<()>,
        ) -> io::Result<()> {
            connect()
        }
    }
    let connections = Connections { addresses: Arc::default(), bypass: Arc::new(Plain) };
    client(config(Some(kubeconfig)).await.unwrap(), connections).unwrap()
}

async fn watch(server: &Server) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(folder.path()).unwrap();
    Watched::with(client_of(&kubeconfig).await)
}

#[tokio::test]
async fn lists_and_changes_arrive() {
    let api = objects::cluster(&["cart", "web"]);
    let server = serve(&api, 0);
    let mut watched = watch(&server).await;
    watched.catch_up(&api).await;
    api.delete(&objects::service("web"));
    api.apply(&objects::service("mail"));
    watched.catch_up(&api).await;
    let agent = &api.asked(Resource::Services)[0].agent;
    assert_eq!(*agent, format!("sockline/{}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_connection_that_breaks_anywhere_is_resumed() {
    for cut in [Cut::End, Cut::Between, Cut::Within] {
        let api = objects::cluster(&["cart", "web"]);
        let server = serve(&api, 0);
        let mut watched = watch(&server).await;
        watched.catch_up(&api).await;
        api.hold(Resource::Services);
        api.delete(&objects::service("web"));
        api.cut(Resource::Services, cut);
        api.release(Resource::Services);
        watched.catch_up(&api).await;
        assert_eq!(api.lists(Resource::Services), 1, "{cut:?}");
        watched.never_failed();
    }
}

#[tokio::test]
async fn pages_come_over_one_connection() {
    let names: Vec<String> = (0..1_100).map(|number| format!("s{number:04}")).collect();
    let api = objects::cluster(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for resource in Resource::ALL {
        api.fault(resource, Fault::NoStreamingLists);
    }
    api.limit_pages(500);
    let server = serve(&api, 0);
    let mut watched = watch(&server).await;
    watched.catch_up(&api).await;
    assert_eq!(watched.replaced(Kind::Service), [names]);
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_waited_for() {
    let place = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = place.local_addr().unwrap();
    let api = objects::cluster(&["cart"]);
    let server = Server::start(&api, place).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(folder.path()).unwrap();
    drop(server);
    let mut watched = Watched::with(client_of(&kubeconfig).await);
    watched.until("errors of all watches", |watched| watched.errors.len() == Kind::ALL.len()).await;
    assert!(watched.error_text().contains("refused"), "{}", watched.error_text());
    assert!(watched.listed.is_empty(), "{:?}", watched.log);
    let _server = serve(&api, address.port());
    watched.catch_up(&api).await;
}

#[tokio::test]
async fn a_server_that_restarts_is_resumed_without_a_list() {
    let api = objects::cluster(&["cart", "web"]);
    let server = serve(&api, 0);
    let port = server.address().port();
    let mut watched = watch(&server).await;
    watched.catch_up(&api).await;
    drop(server);
    api.delete(&objects::service("web"));
    watched.until_source_error("watch of services").await;
    assert_eq!(watched.services().len(), 2);
    let _server = serve(&api, port);
    watched.catch_up(&api).await;
    assert_eq!(api.lists(Resource::Services), 1);
}
