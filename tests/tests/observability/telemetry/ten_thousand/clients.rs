//! Clients that make connections one after the other, and check what they see of each.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use sockline_testbed::{DEADLINE, Socket, UdpClient, mapped, patience};

use super::{
    super::{at, family, reset, until_ended},
    expected::{ANSWER, MORE, REQUEST, Way},
    large,
};

/// The forms of the address of a service by its number; the last one is IPv4 from an IPv6 socket.
pub(super) fn address(service: u8, port: u16, form: usize) -> SocketAddr {
    let v4 = at(&format!("10.96.0.{service}:{port}"));
    match form % 3 {
        0 => v4,
        1 => at(&format!("[fd00:96::{service}]:{port}")),
        _ => mapped(v4),
    }
}

/// Makes the connections of so many rounds, as `Expected::of_rounds` has them. Each begins when `wait` returns.
pub(super) fn make(rounds: usize, mut wait: impl FnMut()) {
    for round in 0..rounds {
        wait();
        for (place, way) in Way::ALL.into_iter().enumerate() {
            let service =
                if way == Way::BothClose { super::RACE_NUMBER } else { super::WEB_NUMBER };
            let stream = TcpStream::connect(address(service, 80, round + place)).unwrap();
            go(stream, way);
        }
        refused(round);
        datagrams(round);
        without_endpoints(round);
    }
}

/// One refused connection; and one socket that is refused twice, and then accepted.
fn refused(round: usize) {
    let dead = address(super::DEAD_NUMBER, 80, round);
    let refused = Some(libc::ECONNREFUSED);
    assert_eq!(TcpStream::connect(dead).unwrap_err().raw_os_error(), refused);
    let socket = Socket::tcp(family(dead)).unwrap();
    for _ in 0..2 {
        assert_eq!(socket.connect(dead).unwrap_err().raw_os_error(), refused);
    }
    socket.connect(address(super::WEB_NUMBER, 80, round)).unwrap();
    go(socket.into_std(), Way::ClientCloses);
}

/// One flow of a connected socket, and one of another.
fn datagrams(round: usize) {
    let dns = address(super::DNS_NUMBER, 80, round);
    UdpClient::connected(dns).unwrap().ask("?").unwrap();
    UdpClient::unconnected(dns.ip()).unwrap().ask_to(dns, "?").unwrap();
}

/// One call over TCP and one over UDP to a service without an endpoint.
fn without_endpoints(round: usize) {
    let none = address(super::NONE_NUMBER, 80, round);
    for open in [Socket::tcp, Socket::udp] {
        let error = open(family(none)).unwrap().connect(none).unwrap_err();
        // EPERM before Linux 5.18.
        let expected = [libc::ECONNREFUSED, libc::EPERM].map(Some);
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    }
}

/// Asks the server for a way to go, and goes it.
pub(super) fn go(mut stream: TcpStream, way: Way) {
    ask(&mut stream, way);
    match way {
        Way::ClientCloses | Way::BothClose => read_answer(&mut stream),
        Way::ServerCloses => assert_eq!(until_ended(&mut stream).unwrap(), ANSWER),
        Way::ClientResets => {
            read_answer(&mut stream);
            reset(stream);
        }
        Way::ServerResets => {
            let error = until_ended(&mut stream).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
        }
        // The answer is one segment.
        Way::Unread => stream.read_exact(&mut [0]).unwrap(),
        Way::HalfClosed => {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(until_ended(&mut stream).unwrap(), ANSWER);
        }
        Way::Unanswered => {}
        Way::InFlight => {
            read_answer(&mut stream);
            stream.write_all(&[0; MORE]).unwrap();
        }
        Way::Download => large::discard(&stream, large::BYTES).unwrap(),
    }
}

pub(super) fn ask(stream: &mut TcpStream, way: Way) {
    // A lost answer fails the test, and does not hang it.
    let timeout = Some(patience(DEADLINE));
    stream.set_read_timeout(timeout).unwrap();
    stream.set_write_timeout(timeout).unwrap();
    stream.write_all(&[way as u8; REQUEST]).unwrap();
}

pub(super) fn read_answer(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; ANSWER]).unwrap();
}
