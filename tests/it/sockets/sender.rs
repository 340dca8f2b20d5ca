//! A sender of deliveries over a plain socket. The tests of the small examples use it too.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{BASIC, PATH, SAMPLE};

/// Returns the head of a delivery with additional headers, each ended by CRLF.
pub(super) fn head(more: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: mx\r\nauthorization: {BASIC}\r\n\
         content-type: application/json; charset=utf-8\r\n{more}\r\n"
    )
}

/// Returns a delivery as MX sends it.
pub(super) fn with_length(body: &str) -> String {
    head(&format!("content-length: {}\r\n", body.len())) + body
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    // Less than the read timeout, so the test fails if an answer waits for a missing body.
    let patience = Some(Duration::from_secs(8));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// Reads the head of the next response, and nothing after it.
pub(super) fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).unwrap() {
            0 => break,
            _ => head.push(byte[0]),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends `request` and returns the head of the answer, which is empty if the connection closes.
pub(super) fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    answer(&mut stream)
}

pub(super) fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1).unwrap_or("0");
    code.parse().unwrap()
}

/// Returns whether the sample is answered 204.
pub(super) fn delivers(address: SocketAddr) -> bool {
    status(&say(address, with_length(SAMPLE).as_bytes())) == 204
}
