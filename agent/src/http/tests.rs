use std::{net::SocketAddr, time::Duration};

use axum::{Json, routing::get, routing::post};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(60);

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/status", get(async || "fine\n"))
        .route("/json", post(async |Json(_): Json<serde_json::Value>| "taken\n"));
    tokio::spawn(serve(listener, router, CancellationToken::new()));
    address
}

/// Sends a request and returns all that comes back until the server closes.
async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may have closed before it has read all.
    let _ = stream.write_all(request).await;
    until_closed(&mut stream).await
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = read.unwrap_or_else(|_| panic!("still open: {}", String::from_utf8_lossy(&answer)));
    String::from_utf8_lossy(&answer).into_owned()
}

const STATUS: &[u8] = b"GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_greedy_client_does_not_keep_others_from_an_answer() {
    let address = server().await;
    let mut held = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = ask(address, STATUS).await;
    assert!(answer.ends_with("fine\n"), "{answer}");
    // Its first connections paid for the last ones.
    assert_eq!(until_closed(&mut held[0]).await, "");
}

/// A server whose `/watch` is exempted until the token is cancelled.
async fn server_with_exemption() -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    let until = end.clone();
    let watch = async |Extension(exemption): Extension<Exemption>| {
        exemption.until(until);
        let never = futures::stream::pending::<Result<axum::body::Bytes, io::Error>>();
        axum::body::Body::from_stream(never)
    };
    let router = Router::new().route("/status", get(async || "fine\n")).route("/watch", get(watch));
    tokio::spawn(serve(listener, router, CancellationToken::new()));
    (address, end)
}

/// Begins to watch: the head of the response has come.
async fn watch(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn an_exempted_connection_does_not_make_room_for_others() {
    let (address, _end) = server_with_exemption().await;
    let mut watching = watch(address).await;
    let mut held = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(ask(address, STATUS).await.ends_with("fine\n"));
    assert_eq!(until_closed(&mut held[0]).await, "");
    let mut rest = Vec::new();
    let closed = timeout(Duration::ZERO, watching.read_to_end(&mut rest)).await;
    assert!(closed.is_err(), "it is closed: {}", String::from_utf8_lossy(&rest));
}

#[tokio::test(start_paused = true)]
async fn an_exempted_connection_lasts_until_its_end_and_no_longer() {
    let (address, end) = server_with_exemption().await;
    let mut watching = watch(address).await;
    sleep(100 * MAX_DURATION).await;
    let mut rest = Vec::new();
    let closed = timeout(MAX_DURATION, watching.read_to_end(&mut rest)).await;
    assert!(closed.is_err(), "it is closed: {}", String::from_utf8_lossy(&rest));
    end.cancel();
    until_closed(&mut watching).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_request_is_cut_off() {
    let address = server().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nhost:").await.unwrap();
    assert_eq!(until_closed(&mut stream).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_body_is_cut_off() {
    let address = server().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(!answer.contains("taken"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let head =
        "POST /json HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    for (length, expected) in [(MAX_BODY_BYTES, "200 OK"), (MAX_BODY_BYTES + 1, "413 ")] {
        let body = format!("\"{}\"", "x".repeat(length - 2));
        let request = format!("{head}content-length: {length}\r\n\r\n{body}");
        let answer = ask(server().await, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{length}: {answer}");
    }
}

#[tokio::test]
async fn a_request_with_too_many_or_too_long_headers_is_refused() {
    for headers in
        ["a: b\r\n".repeat(MAX_HEADERS + 1), format!("a: {}\r\n", "b".repeat(MAX_HEAD_BYTES))]
    {
        let request = format!("GET /status HTTP/1.1\r\n{headers}\r\n");
        let answer = ask(server().await, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
