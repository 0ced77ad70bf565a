//! One HTTP/1.1 GET, for the agent's readiness and metrics.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::wait::{ANSWER_TIMEOUT, patience};

/// A response, its body as text.
#[derive(Clone, Debug)]
pub struct HttpReply {
    pub status: u16,
    pub body: String,
}

/// Gets a path from a server on this machine.
///
/// # Errors
/// Those of the connection, and `InvalidData` for what is not HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<HttpReply> {
    let patience = patience(ANSWER_TIMEOUT);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    // HTTP/1.0 keeps the server from answering in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
    Ok(HttpReply { status, body: body.to_owned() })
}
