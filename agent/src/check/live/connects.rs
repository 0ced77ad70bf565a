//! The connects that one place makes, and what must be seen from there.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::model::{
    object::Family,
    probe_service::{Listeners, ProbeService},
};

/// Far longer than loopback takes, also on a node without a free processor; a connect that hangs is a failed check.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What EPERM means: nothing else refuses a connect to loopback.
pub const REFUSED_BY_HOOK: &str = "a program on the hook refuses it";

/// What a place is asked to connect to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub service: ProbeService,
    pub listeners: Listeners,
    pub token: String,
    /// Refusals are ECONNREFUSED, else EPERM.
    pub set_retval: bool,
}

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// `tcp-ipv4`
    pub what: String,
    pub result: Result<String, String>,
}

/// Makes all connects in parallel.
pub fn make(request: &Request) -> Vec<Outcome> {
    type Attempt = fn(&Request, Family) -> Result<String, String>;
    let attempts: [(&str, Attempt); 4] =
        [("tcp", tcp), ("udp", udp), ("refusal", refusal), ("untouched", untouched)];
    thread::scope(|scope| {
        let running: Vec<_> = Family::ALL
            .into_iter()
            .flat_map(|family| attempts.map(|(name, attempt)| (family, name, attempt)))
            .map(|(family, name, attempt)| {
                let what = format!("{name}-{}", family.to_string().to_lowercase());
                (what, scope.spawn(move || unless_off(request, family, attempt)))
            })
            .collect();
        running
            .into_iter()
            .map(|(what, attempt)| {
                let result = attempt.join().unwrap_or_else(|_| Err("it panicked".into()));
                Outcome { what, result }
            })
            .collect()
    })
}

fn unless_off(
    request: &Request,
    family: Family,
    attempt: fn(&Request, Family) -> Result<String, String>,
) -> Result<String, String> {
    match family {
        Family::IPv6 if request.listeners.tcp6.is_none() || request.listeners.udp6.is_none() => {
            Ok("skipped: IPv6 is off here".into())
        }
        _ => attempt(request, family),
    }
}

fn tcp(request: &Request, family: Family) -> Result<String, String> {
    let service = SocketAddr::new(request.service.address(family), request.service.port);
    tcp_reaches(request, service)?;
    Ok(format!("{service} is translated and shown as the peer"))
}

/// An address that is no service's: here, the listener itself.
fn untouched(request: &Request, family: Family) -> Result<String, String> {
    let port = match family {
        Family::IPv4 => request.listeners.tcp4,
        Family::IPv6 => request.listeners.tcp6,
    };
    let address = SocketAddr::new(loopback(family), port.unwrap_or(0));
    tcp_reaches(request, address)?;
    Ok(format!("{address}, which is no service, is not translated"))
}

fn refusal(request: &Request, family: Family) -> Result<String, String> {
    let address = SocketAddr::new(request.service.address(family), request.service.refused_port);
    let expected = if request.set_retval { libc::ECONNREFUSED } else { libc::EPERM };
    match TcpStream::connect_timeout(&address, TIMEOUT) {
        Err(error) if error.raw_os_error() == Some(expected) => {
            Ok(format!("{address}, a service without endpoints, is refused"))
        }
        Err(error) => Err(format!(
            "{address}, a service without endpoints: {}, not {}",
            in_words(&error),
            io::Error::from_raw_os_error(expected)
        )),
        Ok(_) => Err(format!("{address}, a service without endpoints, was connected to")),
    }
}

fn udp(request: &Request, family: Family) -> Result<String, String> {
    let service = SocketAddr::new(request.service.address(family), request.service.port);
    udp_connected(request, service).map_err(|error| format!("connect() to {service}: {error}"))?;
    udp_unconnected(request, service).map_err(|error| format!("sendto() {service}: {error}"))?;
    Ok(format!("{service} is translated and shown as the peer and the sender"))
}

fn tcp_reaches(request: &Request, address: SocketAddr) -> Result<(), String> {
    let failed = |error: io::Error| format!("connect() to {address}: {}", in_words(&error));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let own = stream.local_addr().map_err(failed)?;
    is_answer(request, &answer, own).map_err(|error| format!("connect() to {address}: {error}"))?;
    match stream.peer_addr() {
        Ok(peer) if peer == address => Ok(()),
        Ok(peer) => Err(format!("getpeername() after connect() to {address} returns {peer}")),
        Err(error) => Err(failed(error)),
    }
}

fn udp_connected(request: &Request, service: SocketAddr) -> Result<(), String> {
    let io = |error: io::Error| in_words(&error);
    let socket = udp_socket(service).map_err(io)?;
    socket.connect(service).map_err(io)?;
    let own = socket.local_addr().map_err(io)?;
    socket.send(b"?").map_err(io)?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer).map_err(io)?;
    is_answer(request, &String::from_utf8_lossy(&buffer[..length]), own)?;
    match socket.peer_addr().map_err(io)? {
        peer if peer == service => Ok(()),
        peer => Err(format!("getpeername() returns {peer}")),
    }
}

fn udp_unconnected(request: &Request, service: SocketAddr) -> Result<(), String> {
    let io = |error: io::Error| in_words(&error);
    let socket = udp_socket(service).map_err(io)?;
    socket.send_to(b"?", service).map_err(io)?;
    // Sending has bound the socket to a port. The server sees it with the loopback address.
    let own =
        SocketAddr::new(loopback(family_of(service)), socket.local_addr().map_err(io)?.port());
    let mut buffer = [0; 128];
    let (length, sender) = socket.recv_from(&mut buffer).map_err(io)?;
    is_answer(request, &String::from_utf8_lossy(&buffer[..length]), own)?;
    if sender == service {
        Ok(())
    } else {
        Err(format!("recvfrom() returns {sender} as the sender"))
    }
}

fn udp_socket(service: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match family_of(service) {
        Family::IPv4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        Family::IPv6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Whether our listener answered, and saw our own address: nothing in between changed it.
fn is_answer(request: &Request, answer: &str, own: SocketAddr) -> Result<(), String> {
    match answer.split_once(' ') {
        Some((token, seen)) if token == request.token => {
            if seen == own.to_string() {
                Ok(())
            } else {
                Err(format!("the listener saw {seen}, this end is {own}"))
            }
        }
        _ => Err("the answer is not from this command's listener".into()),
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("no answer within {TIMEOUT:?}")
        }
        io::ErrorKind::PermissionDenied => format!("{error}: {REFUSED_BY_HOOK}"),
        _ => error.to_string(),
    }
}

const fn family_of(address: SocketAddr) -> Family {
    Family::of(address.ip())
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::IPv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}
