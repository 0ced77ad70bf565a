//! Makes a sentence of a line that a program has logged: words and numbers (`ebpf/src/kernel/debug_log.rs`).

use std::{
    fmt::Display,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use sockline_ebpf::{
    debug_log::{Decision, LoggedHook},
    frontend::Reason,
    id::ServiceId,
    telemetry::End,
};

/// A line, in numbers.
struct Line {
    service: ServiceId,
    hook: LoggedHook,
    decision: Decision,
    detail: u8,
    /// The Service's, as it was dialled or is shown; unspecified when a socket is closed.
    address: SocketAddr,
    backend: u32,
    /// Unspecified if the call has no backend, or the backend was removed meanwhile.
    endpoint: SocketAddr,
    socket: u64,
    process: u32,
}

/// The next value, behind its word.
fn next<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>, word: &str) -> Option<T> {
    (words.next()? == word).then_some(())?;
    words.next()?.parse().ok()
}

fn next_address<'a>(words: &mut impl Iterator<Item = &'a str>, word: &str) -> Option<SocketAddr> {
    let address: Ipv6Addr = next(words, word)?;
    Some(SocketAddr::new(address.to_canonical(), next(words, "port")?))
}

impl Line {
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let words = &mut words;
        Some(Self {
            service: ServiceId(next(words, "service")?),
            hook: LoggedHook::from_byte(next(words, "hook")?)?,
            decision: Decision::from_byte(next(words, "decision")?)?,
            detail: next(words, "detail")?,
            address: next_address(words, "address")?,
            backend: next(words, "backend")?,
            endpoint: next_address(words, "endpoint")?,
            socket: next(words, "socket")?,
            process: next(words, "process")?,
        })
    }

    fn backend(&self) -> String {
        let Self { backend, endpoint, .. } = self;
        if is_known(endpoint.ip()) {
            format!("{endpoint} (backend {backend})")
        } else {
            format!("a removed endpoint (backend {backend})")
        }
    }

    fn decided(&self) -> String {
        let address = self.address;
        let bypassed = |why: &dyn Display| format!("{address} bypassed: {why}");
        match self.decision {
            Decision::Chosen => {
                let untracked = if self.detail == 0 { "" } else { ", untracked" };
                format!("{address} -> {}{untracked}", self.backend())
            }
            Decision::Kept => format!("{address} -> {}, which the socket has", self.backend()),
            Decision::Refused => format!("{address} refused: {}", reason(self.detail)),
            Decision::Bypassed => bypassed(&reason(self.detail)),
            Decision::ExcludedPod => bypassed(&"the caller is in an excluded pod"),
            Decision::NestedNamespace => {
                bypassed(&"the caller is in a network namespace inside of a pod")
            }
            Decision::AgentGone => bypassed(&"no agent has renewed the maps"),
            Decision::OwnConnection => bypassed(&"the agent's own connection"),
            Decision::Unreadable => bypassed(&"no backend could be read"),
            Decision::Shown => format!("{} is shown as {address}", self.backend()),
            Decision::Freed => format!("{}, record freed: {}", self.backend(), end(self.detail)),
        }
    }
}

fn is_known(address: IpAddr) -> bool {
    !address.is_unspecified()
}

/// `None` for a line of another build.
pub fn sentence(text: &str, name: impl Fn(ServiceId) -> Option<String>) -> Option<String> {
    let line = Line::read(text)?;
    let service = name(line.service).unwrap_or_else(|| format!("service {}", line.service));
    Some(format!(
        "{}: {service} {}, socket {}, process {}",
        line.hook.name(),
        line.decided(),
        line.socket,
        line.process
    ))
}

/// Why a frontend does not forward, with the names that `sockline services` has for it.
fn reason(byte: u8) -> &'static str {
    match Reason::from_byte(byte) {
        Some(Reason::NoEndpoints) => "no endpoints",
        Some(Reason::NoLocalEndpoints) => "no local endpoints",
        Some(Reason::SourceRanges) => "source ranges",
        Some(Reason::Protocol) => "protocol",
        Some(Reason::RedirectDisabled) => "redirect disabled",
        Some(Reason::TooLarge) => "too large",
        None => "a reason of another build",
    }
}

/// How a connection ended, with the words of `sockline watch`.
fn end(number: u8) -> &'static str {
    match End::ALL.get(usize::from(number)) {
        Some(End::Client) => "closed by the client",
        Some(End::Server) => "closed by the server",
        Some(End::ClientReset) => "reset by the client",
        Some(End::ServerReset) => "reset by the server",
        Some(End::Lost) => "lost",
        Some(End::Refused) => "failed, refused by the endpoint",
        Some(End::TimedOut) => "failed, timed out",
        Some(End::Unreachable) => "failed, unreachable",
        Some(End::GivenUp) => "failed, given up",
        Some(End::Untracked) => "untracked",
        Some(End::Unknown) | None => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "socket 5 process 42";

    #[track_caller]
    fn of(text: &str) -> String {
        sentence(text, |ServiceId(id)| (id == 7).then(|| "shop/web:http/TCP".into())).unwrap()
    }

    #[test]
    fn a_line_is_a_sentence_with_names() {
        let call = |service: u32,
                    hook: u8,
                    decision: u8,
                    detail: u8,
                    address: &str,
                    backend: &str| {
            of(&format!(
                "service {service} hook {hook} decision {decision} detail {detail} address {address} {backend} {REST}"
            ))
        };
        let (v4, to) =
            ("::ffff:10.96.0.10 port 80", "backend 17 endpoint ::ffff:10.244.1.5 port 8080");
        let none = "backend 0 endpoint :: port 0";
        assert_eq!(
            call(7, 0, 0, 0, v4, to),
            "connect4: shop/web:http/TCP 10.96.0.10:80 -> 10.244.1.5:8080 (backend 17), socket 5, process 42"
        );
        assert_eq!(
            call(8, 1, 2, 1, "fd00::1 port 80", none),
            "connect6: service 8 [fd00::1]:80 refused: no local endpoints, socket 5, process 42"
        );
        assert_eq!(
            call(7, 0, 4, 0, v4, none),
            "connect4: shop/web:http/TCP 10.96.0.10:80 bypassed: the caller is in an excluded pod, socket 5, process 42"
        );
        assert_eq!(
            call(7, 8, 10, 1, ":: port 0", to),
            "sock_release: shop/web:http/TCP 10.244.1.5:8080 (backend 17), record freed: closed by the server, socket 5, process 42"
        );
        assert_eq!(
            call(7, 6, 9, 0, v4, "backend 17 endpoint :: port 0"),
            "getpeername4: shop/web:http/TCP a removed endpoint (backend 17) is shown as 10.96.0.10:80, socket 5, process 42"
        );
    }

    #[test]
    fn a_line_of_another_build_is_no_sentence() {
        for text in ["", "service 7", "service x hook 0", "a new kind of line"] {
            assert_eq!(sentence(text, |_| None), None, "{text}");
        }
    }
}
