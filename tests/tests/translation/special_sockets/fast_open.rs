//! TCP Fast Open: the first call sends data.

use std::{fs, io::Write, net::TcpStream};

use nix::sys::socket::sockopt::TcpFastOpenConnect;
use sockline_testbed::{Ns, Pod, Socket, WebAndEmptyService, at};

use super::{EMPTY, count, family, forms, refusal, talk, translated};

/// Allows data in SYNs without a cookie on both ends: the connect is then really deferred.
fn enable_fast_open(web: &Pod, client: &Pod) {
    // Bits of Documentation/networking/ip-sysctl.rst; the server's count when it starts to listen.
    const CLIENT_WITHOUT_COOKIE: u32 = 0x1 | 0x4;
    const SERVER_WITHOUT_COOKIE_OR_OPTION: u32 = 0x2 | 0x200 | 0x400;
    let set = |ns: &Ns, value: u32| {
        ns.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", value.to_string())).unwrap();
    };
    set(client, CLIENT_WITHOUT_COOKIE);
    set(web, SERVER_WITHOUT_COOKIE_OR_OPTION);
}

/// How many SYNs of the namespace carried data.
fn syns_with_data(ns: &Ns) -> u64 {
    count(ns, "TcpExt:", "TCPFastOpenActive")
}

#[test]
fn fast_open_by_option_is_translated_though_connect_sends_nothing() {
    let setup = WebAndEmptyService::prepared(enable_fast_open).unwrap();
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            socket.set(TcpFastOpenConnect, &true).unwrap();
            socket.connect(to).unwrap();
            let mut stream: TcpStream = socket.into_std();
            stream.write_all(b"early\n").unwrap();
            assert_eq!(talk(&stream), "web", "{to}");
            assert_eq!(stream.peer_addr().unwrap(), to);
        });
    }
    assert_eq!(syns_with_data(&setup.client), 3, "data was in each SYN");
    assert_eq!(translated(&setup), 3);
}

#[test]
fn fast_open_by_message_flag_is_translated() {
    let setup = WebAndEmptyService::prepared(enable_fast_open).unwrap();
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            assert_eq!(socket.send_to(b"early\n", to, libc::MSG_FASTOPEN).unwrap(), 6);
            let stream: TcpStream = socket.into_std();
            assert_eq!(talk(&stream), "web", "{to}");
            assert_eq!(stream.peer_addr().unwrap(), to);
        });
    }
    assert_eq!(syns_with_data(&setup.client), 3, "data was in each SYN");
    assert_eq!(translated(&setup), 3);
}

#[test]
fn fast_open_without_a_cookie_yet_is_translated_too() {
    let setup = WebAndEmptyService::new().unwrap();
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            socket.send_to(b"early\n", to, libc::MSG_FASTOPEN).unwrap();
            let stream: TcpStream = socket.into_std();
            assert_eq!((talk(&stream), stream.peer_addr().unwrap()), ("web".to_owned(), to));
        });
    }
    assert_eq!(syns_with_data(&setup.client), 0);
}

#[test]
fn fast_open_to_a_service_without_endpoints_is_refused() {
    let setup = WebAndEmptyService::prepared(enable_fast_open).unwrap();
    let refusal = refusal(&setup);
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        let error = socket.send_to(b"early\n", at(EMPTY), libc::MSG_FASTOPEN).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.set(TcpFastOpenConnect, &true).unwrap();
        let error = socket.connect(at(EMPTY)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
    });
}
