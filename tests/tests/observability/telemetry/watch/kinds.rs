//! Each kind of event, with its fields.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, SystemTime},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use serde_json::{Value, json};
use sockline::watch::ConnectionEvent;
use sockline_testbed::{Service, Socket, UdpClient};

use super::{
    super::{CountedWeb, V4, V6, at, family, forms, reset, transfer, until_ended},
    Watch,
};
use crate::common::{eventually, holds};

/// An event without its time and its client.
#[track_caller]
fn fields(event: &Value) -> Value {
    let mut event = event.clone();
    let fields = event.as_object_mut().unwrap();
    assert_eq!(fields.remove("apiVersion").unwrap(), "sockline.dev/v1");
    assert_eq!(fields.remove("kind").unwrap(), "ConnectionEvent");
    let read: ConnectionEvent = serde_json::from_value(Value::Object(fields.clone())).unwrap();
    fields.remove("time").unwrap();
    let age = SystemTime::now().duration_since(read.time.into()).unwrap();
    assert!(age < Duration::from_secs(600), "{}", read.time);
    let client = fields.remove("client").unwrap();
    // A child that another test is starting may close a socket last.
    if fields.get("end").is_none() {
        assert_eq!(client["process"]["pid"], std::process::id());
    }
    assert_eq!(client["pod"], Value::Null, "threads of this process are in no pod's cgroup");
    event
}

fn address(of: SocketAddr) -> Value {
    json!({"address": of.ip().to_canonical(), "port": of.port()})
}

fn opened(to: SocketAddr, service: &str, protocol: &str, endpoint: &str) -> Value {
    json!({
        "event": "opened",
        "protocol": protocol,
        "service": {"namespace": "default", "name": service},
        "portName": port_name(protocol, to.port()),
        "dialled": address(to),
        "endpoint": address(at(endpoint)),
    })
}

fn port_name(protocol: &str, port: u16) -> String {
    format!("{}-{port}", protocol.to_lowercase())
}

#[test]
fn a_tcp_connection_is_shown_when_it_is_opened_and_closed() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    for (number, to) in forms().into_iter().enumerate() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 1000);
        transfer(&mut server, &mut client, 2000);
        drop(client);
        let events = watch.expect(2 * number + 2);
        let [begin, end] = &events[2 * number..] else { unreachable!() };
        let endpoint = address_of(&web, to);
        assert_eq!(fields(begin), opened(to, "web", "TCP", &endpoint));
        let end = fields(end);
        assert_eq!(end["event"], "closed");
        assert_eq!((&end["reason"], &end["dialled"]), (&json!("client"), &Value::Null));
        assert_eq!((&end["service"], &end["endpoint"]), (&begin["service"], &begin["endpoint"]));
        let how = &end["end"];
        assert_eq!((&how["sentBytes"], &how["receivedBytes"]), (&json!(1000), &json!(2000)));
        // A busy machine may be late with an acknowledgement.
        assert!(how["retransmittedSegments"].as_u64().unwrap() < 10, "{how}");
        let seconds = |field: &str| how[field].as_f64().unwrap();
        assert!((0.0..600.0).contains(&seconds("durationSeconds")), "{how}");
        assert!(seconds("roundTripSeconds") > 0.0 && seconds("roundTripSeconds") < 10.0, "{how}");
    }
}

fn address_of(web: &CountedWeb, to: SocketAddr) -> String {
    let is_v4 = to.ip().to_canonical().is_ipv4();
    let address = web.web.addresses().iter().find(|address| address.is_ipv4() == is_v4).unwrap();
    SocketAddr::new(*address, 8080).to_string()
}

#[test]
fn each_end_has_its_reason() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &["--service", "default/web"]);
    let reason = |count: usize| watch.expect(count)[count - 1]["reason"].clone();
    let (mut client, server) = web.connection(at(V4));
    drop(server);
    until_ended(&mut client).unwrap();
    drop(client);
    assert_eq!(reason(2), "server");
    let (mut client, server) = web.connection(at(V6));
    reset(server);
    until_ended(&mut client).unwrap_err();
    drop(client);
    assert_eq!(reason(4), "server-reset");
    let (client, _server) = web.connection(at(V4));
    reset(client);
    assert_eq!(reason(6), "client-reset");
}

#[test]
fn what_fails_or_is_refused_is_shown_with_its_reason() {
    let mut web = CountedWeb::new();
    let dead = Service::new("dead").ip("10.96.0.2").ip("fd00:96::2").tcp(80).to(9999);
    let none = Service::new("none").ip("10.96.0.3").ip("fd00:96::3").tcp(80).udp(80);
    web.cluster.apply([dead.endpoints([&web.web]), none]).unwrap();
    let watch = Watch::start(web.cluster.agent(), &["--failed"]);
    for to in [at("10.96.0.2:80"), at("[fd00:96::2]:80")] {
        web.client.run(|| TcpStream::connect(to)).unwrap_err();
    }
    let events = watch.expect(2);
    for event in &events {
        let event = fields(event);
        assert_eq!((&event["event"], &event["reason"]), (&json!("failed"), &json!("refused")));
        assert_eq!(event["service"]["name"], "dead");
        assert_eq!(event["end"]["sentBytes"], 0);
    }
    for (to, protocol) in [
        (at("10.96.0.3:80"), "TCP"),
        (at("[fd00:96::3]:80"), "TCP"),
        (at("10.96.0.3:80"), "UDP"),
        (at("[fd00:96::3]:80"), "UDP"),
    ] {
        let refused = web.client.run(|| {
            let open = if protocol == "TCP" { Socket::tcp } else { Socket::udp };
            open(family(to)).unwrap().connect(to)
        });
        refused.unwrap_err();
        let expected = json!({
            "event": "refused",
            "reason": "no-endpoints",
            "protocol": protocol,
            "service": {"namespace": "default", "name": "none"},
            "portName": port_name(protocol, 80),
            "dialled": address(to),
        });
        eventually("the refusal", || {
            let last = watch.events().last().map(fields);
            holds(last.as_ref() == Some(&expected), format!("{last:#?}"))
        });
    }
    watch.expect(6);
}

#[test]
fn a_flow_of_a_udp_socket_is_shown_when_it_begins_and_ends() {
    let web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    let server = web.web.udp_server(8080).unwrap();
    for (number, to) in forms().into_iter().enumerate() {
        let client = web.client.run(|| UdpClient::connected(to).unwrap());
        client.ask("?").unwrap();
        drop(client);
        let events = watch.expect(2 * number + 2);
        let [begin, end] = &events[2 * number..] else { unreachable!() };
        let endpoint = address_of(&web, to);
        assert_eq!(fields(begin), opened(to, "web", "UDP", &endpoint));
        let end = fields(end);
        assert_eq!((&end["event"], &end["reason"]), (&json!("closed"), &json!("client")));
        assert_eq!(end["endpoint"], begin["endpoint"]);
    }
    // Flows that end while the socket lives: it sends to a service, and then to its endpoint.
    let client = web.client.run(|| UdpClient::unconnected(at(V4).ip()).unwrap());
    let endpoint: SocketAddr = address_of(&web, at(V4)).parse().unwrap();
    web.client.run(|| client.ask_to(at(V4), "?").unwrap());
    web.client.run(|| client.ask_to(endpoint, "?").unwrap());
    let events = watch.expect(8);
    let [begin, end] = &events[6..] else { unreachable!() };
    assert_eq!(fields(begin), opened(at(V4), "web", "UDP", &endpoint.to_string()));
    let end = fields(end);
    assert_eq!((&end["event"], &end["reason"]), (&json!("closed"), &json!("client")));
    assert_eq!(end["endpoint"], begin["endpoint"]);
    drop((client, server));
    // Nothing listens any more.
    let socket = web.client.run(|| Socket::udp(libc::AF_INET)).unwrap();
    web.client.run(|| socket.connect(at(V4))).unwrap();
    let mut socket = std::fs::File::from(socket.into_std::<std::os::fd::OwnedFd>());
    socket.write_all(b"?").unwrap();
    let mut wait = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    eventually("the ICMP error", || match poll(&mut wait, PollTimeout::ZERO) {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(socket);
    let failed = fields(&watch.expect(10)[9]);
    assert_eq!((&failed["event"], &failed["reason"]), (&json!("failed"), &json!("refused")));
}
