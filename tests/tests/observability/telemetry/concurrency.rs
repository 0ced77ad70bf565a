//! Many connections at once, on all CPUs.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
};

use sockline_testbed::{Protocol, Service};

use super::{CountedWeb, Seen, at, counts, failed, reset};

const THREADS: u64 = 8;
const ROUNDS: u64 = 60;

#[test]
fn every_connection_of_many_threads_is_counted_in_the_right_place() {
    let mut web = CountedWeb::new();
    let dead = Service::new("dead").ip("10.96.0.2").tcp(80).to(9999).endpoints([&web.web]);
    web.cluster.apply([dead]).unwrap();
    thread::scope(|scope| {
        let listener = &web.listener;
        for _ in 0..THREADS {
            // Each server ends its connection in the way that the request asks for.
            scope.spawn(|| {
                for _ in 0..ROUNDS * 3 {
                    let mut server = listener.accept().unwrap().0;
                    let mut request = [0; 1];
                    server.read_exact(&mut request).unwrap();
                    match request[0] {
                        b'c' => {
                            server.write_all(b"answer").unwrap();
                            let _ = server.read(&mut request);
                        }
                        b's' => server.write_all(b"answer").unwrap(),
                        _ => reset(server),
                    }
                }
            });
            scope.spawn(|| {
                web.client.run(|| {
                    for _ in 0..ROUNDS {
                        for what in [b'c', b's', b'r'] {
                            let mut client = TcpStream::connect(at(super::V4)).unwrap();
                            client.write_all(&[what]).unwrap();
                            match what {
                                b'c' => client.read_exact(&mut [0; 6]).unwrap(),
                                b's' => assert_eq!(super::until_ended(&mut client).unwrap(), 6),
                                _ => assert!(super::until_ended(&mut client).is_err()),
                            }
                            if what == b'c' {
                                client.shutdown(Shutdown::Write).unwrap();
                            }
                        }
                        TcpStream::connect(at("10.96.0.2:80")).unwrap_err();
                    }
                });
            });
        }
    });
    let each = THREADS * ROUNDS;
    web.assert_seen(&Seen {
        opened: 3 * each,
        closed: counts([("client", each), ("server", each), ("server-reset", each)]),
        unanswered: each,
        sent: 3 * each,
        received: 12 * each,
        round_trips: 3 * each,
        lifetimes: 3 * each,
        ..Seen::default()
    });
    super::assert_counted(&web.cluster, "dead", Protocol::Tcp, &failed("refused", each));
}
