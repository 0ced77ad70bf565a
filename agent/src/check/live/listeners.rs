//! The listeners behind the probe service. Each answers with a token and the client's address.

use std::{
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    thread,
};

use crate::model::probe_service::Listeners;

/// Listeners that answer until the process ends.
pub struct Bound {
    pub listeners: Listeners,
    /// The token that only these listeners know.
    pub token: String,
}

impl Bound {
    /// # Errors
    /// When listening on IPv4 fails. A node without IPv6 has no listeners for it.
    pub fn open() -> io::Result<Self> {
        let token = format!("{:016x}", RandomState::new().hash_one("sockline check"));
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let listeners = Listeners {
            tcp4: Some(tcp(v4, &token)?),
            udp4: Some(udp(v4, &token)?),
            tcp6: tcp(v6, &token).ok(),
            udp6: udp(v6, &token).ok(),
        };
        Ok(Self { listeners, token })
    }
}

fn tcp(address: IpAddr, token: &str) -> io::Result<u16> {
    let listener = TcpListener::bind((address, 0))?;
    let port = listener.local_addr()?.port();
    let token = token.to_owned();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            // The client may have closed the connection.
            let _ = write!(stream, "{token} {peer}");
        }
    });
    Ok(port)
}

fn udp(address: IpAddr, token: &str) -> io::Result<u16> {
    let socket = UdpSocket::bind((address, 0))?;
    let port = socket.local_addr()?.port();
    let token = token.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{token} {peer}").as_bytes(), peer);
        }
    });
    Ok(port)
}
