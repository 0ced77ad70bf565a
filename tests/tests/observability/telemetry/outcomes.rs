//! Connections that are established: who ended them, and what went through.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    thread,
};

use sockline_testbed::Socket;

use super::{
    CLOSE, CLOSE_WAIT, CountedWeb, Seen, at, ended, forms, reset, transfer, until_ended,
    wait_for_state,
};

#[test]
fn an_open_connection_is_active_and_has_no_bytes_yet() {
    let web = CountedWeb::new();
    let all: Vec<_> = forms().map(|to| web.connection(to)).into();
    web.assert_seen(&Seen { opened: 3, active: 3, ..Seen::default() });
    drop(all);
    web.assert_seen(&ended("client", 3));
}

#[test]
fn the_client_closes_first() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 1_000);
        transfer(&mut server, &mut client, 500);
        drop(client);
    }
    web.assert_seen(&Seen { sent: 3_000, received: 1_500, ..ended("client", 3) });
}

#[test]
fn the_server_closes_first() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 1_000);
        transfer(&mut server, &mut client, 500);
        drop(server);
        until_ended(&mut client).unwrap();
    }
    web.assert_seen(&Seen { sent: 3_000, received: 1_500, ..ended("server", 3) });
}

#[test]
fn the_client_resets_with_linger() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 10);
        transfer(&mut server, &mut client, 20);
        reset(client);
    }
    web.assert_seen(&Seen { sent: 30, received: 60, ..ended("client-reset", 3) });
}

#[test]
fn the_client_resets_with_unread_data() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        server.write_all(b"12345").unwrap();
        client.peek(&mut [0; 1]).unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        drop(client);
    }
    web.assert_seen(&Seen { received: 15, ..ended("client-reset", 3) });
}

#[test]
fn unread_data_of_a_server_that_has_closed_is_a_reset_too() {
    let web = CountedWeb::new();
    let (client, mut server) = web.connection(at(super::V4));
    server.write_all(b"12345").unwrap();
    drop(server);
    wait_for_state(&client, CLOSE_WAIT);
    drop(client);
    web.assert_seen(&Seen { received: 5, ..ended("client-reset", 1) });
}

#[test]
fn the_server_resets_and_the_client_notices() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 10);
        transfer(&mut server, &mut client, 20);
        reset(server);
        let error = until_ended(&mut client).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    }
    web.assert_seen(&Seen { sent: 30, received: 60, ..ended("server-reset", 3) });
}

#[test]
fn the_server_resets_and_the_client_does_not_look() {
    let web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 10);
    reset(server);
    wait_for_state(&client, CLOSE);
    drop(client);
    web.assert_seen(&Seen { sent: 10, unanswered: 1, ..ended("server-reset", 1) });
}

#[test]
fn a_half_closed_connection_was_ended_by_the_client() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        until_ended(&mut server).unwrap();
        server.write_all(b"answer").unwrap();
        drop(server);
        until_ended(&mut client).unwrap();
    }
    web.assert_seen(&Seen { sent: 24, received: 18, ..ended("client", 3) });
}

#[test]
fn data_that_is_on_its_way_when_the_client_closes_is_counted() {
    let web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    client.write_all(&[1; 50_000]).unwrap();
    drop(client);
    assert_eq!(until_ended(&mut server).unwrap(), 50_000);
    web.assert_seen(&Seen { sent: 50_000, received: 1, ..ended("client", 1) });
}

#[test]
fn a_connection_that_is_never_answered_is_counted() {
    let web = CountedWeb::new();
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        transfer(&mut client, &mut server, 100);
        drop(client);
    }
    web.assert_seen(&Seen { sent: 300, unanswered: 3, ..ended("client", 3) });
}

#[test]
fn a_killed_client_closes_its_connection() {
    let web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 5);
    transfer(&mut server, &mut client, 2);
    // The socket is all that this process has of ours.
    let mut child = Command::new("sleep").arg("1000").stdin(OwnedFd::from(client)).spawn().unwrap();
    web.assert_seen(&Seen { opened: 1, active: 1, ..Seen::default() });
    child.kill().unwrap();
    child.wait().unwrap();
    web.assert_seen(&Seen { sent: 5, received: 2, ..ended("client", 1) });
}

#[test]
fn a_large_transfer_is_counted_to_the_byte() {
    const SENT: usize = 96 << 20;
    const RECEIVED: usize = 32 << 20;
    let web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V6));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chunk = vec![0; 1 << 20];
            (0..SENT >> 20).for_each(|_| server.read_exact(&mut chunk).unwrap());
            (0..RECEIVED >> 20).for_each(|_| server.write_all(&chunk).unwrap());
        });
        let mut chunk = vec![0; 1 << 20];
        (0..SENT >> 20).for_each(|_| client.write_all(&chunk).unwrap());
        (0..RECEIVED >> 20).for_each(|_| client.read_exact(&mut chunk).unwrap());
    });
    drop(client);
    let expected = ended("client", 1);
    web.assert_seen(&Seen { sent: SENT as u64, received: RECEIVED as u64, ..expected });
}

#[test]
fn an_established_connection_that_is_disconnected_was_reset_by_the_client() {
    let web = CountedWeb::new();
    let socket = web.socket(at(super::V4));
    web.client.run(|| socket.connect(at(super::V4))).unwrap();
    let _server = web.listener.accept().unwrap();
    socket.disconnect().unwrap();
    drop(socket);
    // The kernel has cleared its statistics.
    let expected = Seen { round_trips: 0, ..ended("client-reset", 1) };
    web.assert_seen(&expected);
}

#[test]
fn an_mptcp_connection_is_counted_like_another() {
    let web = CountedWeb::new();
    let mut count = 0;
    for to in forms() {
        let Some(socket) = web.client.run(|| Socket::mptcp(super::family(to))).unwrap() else {
            return;
        };
        web.client.run(|| socket.connect(to)).unwrap();
        let mut server = web.listener.accept().unwrap().0;
        let mut client: TcpStream = socket.into_std();
        transfer(&mut client, &mut server, 100);
        transfer(&mut server, &mut client, 50);
        drop(client);
        count += 1;
    }
    if !web.cluster.features().unwrap().mptcp_sock {
        let seen = web.seen();
        assert_eq!(seen.opened, count, "{seen:?}");
        return;
    }
    web.assert_seen(&Seen { sent: 100 * count, received: 50 * count, ..ended("client", count) });
}
