//! Real sockets: valid and hostile senders, and the receiver's answers.

// Not in `harness`, because the crate publishes its tests and not that package.
#[path = "../../../../tests/it/sockets/sender.rs"]
mod sender;

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};

use harness::Process;

use crate::quickstart;
use sender::{answer, connect, delivers, head, say, status, with_length};

const SAMPLE: &str = include_str!("../../../../tests/fixtures/completed.json");
const PATH: &str = "/admin/webhooks";
/// `mx:secret`
const BASIC: &str = "Basic bXg6c2VjcmV0";

fn chunked(chunks: impl IntoIterator<Item = impl AsRef<str>>, trailers: &str) -> String {
    let mut request = head("transfer-encoding: chunked\r\n");
    for chunk in chunks {
        let chunk = chunk.as_ref();
        request += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    request + &format!("0\r\n{trailers}\r\n")
}

fn one_byte_each(text: &str) -> impl Iterator<Item = &str> {
    text.split("").filter(|byte| !byte.is_empty())
}

#[test]
fn a_body_may_arrive_in_any_pieces() {
    let (process, _) = Process::serve(quickstart());
    let (half, rest) = SAMPLE.split_at(SAMPLE.len() / 2);
    let cases = [
        ("with its length", with_length(SAMPLE)),
        ("one chunk", chunked([SAMPLE], "")),
        ("two chunks", chunked([half, rest], "")),
        ("one byte a chunk", chunked(one_byte_each(SAMPLE), "")),
        ("trailers", chunked([SAMPLE], "x-checksum: 1\r\n")),
    ];
    for (name, request) in &cases {
        let answer = say(process.address, request.as_bytes());
        assert_eq!(status(&answer), 204, "{name}: {answer}");
    }

    // The socket may also deliver one byte at a time.
    let mut stream = connect(process.address);
    for byte in chunked([half, rest], "").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(status(&answer(&mut stream)), 204);
}

#[test]
fn a_connection_carries_the_next_delivery() {
    let (process, _) = Process::serve(quickstart());
    let mut stream = connect(process.address);
    let two = with_length(SAMPLE) + &chunked([SAMPLE], "");
    stream.write_all(two.as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(status(&answer(&mut stream)), 204);
    }
}

#[test]
fn a_refusal_comes_before_the_body() {
    let (process, _) = Process::serve(quickstart());
    let expecting = |request: String| {
        let request = request.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
        let (head, _) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
        say(process.address, head.as_bytes())
    };
    let wrong = with_length(SAMPLE).replace(BASIC, "Basic eDp5");
    assert_eq!(status(&expecting(wrong)), 401);
    let right = with_length(SAMPLE);
    assert_eq!(status(&expecting(right)), 100);
    let huge = head("content-length: 100000000000\r\n");
    assert_eq!(status(&expecting(huge)), 413);
}

#[test]
fn hostile_senders_neither_end_the_process_nor_grow_its_memory() {
    let (process, _) = Process::serve(quickstart());
    let address = process.address;
    let long = "1".repeat(70_000);
    let byte_by_byte = chunked(one_byte_each(&long), "");
    let midway = with_length(SAMPLE);
    let midway = &midway.as_bytes()[..midway.len() - 100];
    let refused = |request: &str, code: u16, name: &str| {
        let answer = say(address, request.as_bytes());
        assert_eq!(status(&answer), code, "{name}: {answer}");
    };
    let hostile = || {
        refused(&head("content-length: 100000000000\r\n"), 413, "100 GB");
        refused(
            &head("content-length: 99999999999999999999\r\n"),
            400,
            "more than 64 bits",
        );
        refused(&head("content-length: -1\r\n"), 400, "a negative length");
        refused(
            &head("content-length: 1\r\ncontent-length: 2\r\n"),
            400,
            "two lengths",
        );
        refused(&chunked([&long], ""), 413, "too many bytes in one chunk");
        refused(&byte_by_byte, 413, "too many bytes, one a chunk");
        refused(
            &(head("transfer-encoding: chunked\r\n") + "10000000000000000\r\n"),
            400,
            "a chunk of more than 64 bits",
        );
        refused(
            &(head("transfer-encoding: chunked\r\n") + "zz\r\n"),
            400,
            "no chunk size",
        );
        refused(
            &head(&format!("authorization: {BASIC}\r\n")),
            401,
            "two authorizations",
        );
        refused(
            &with_length(SAMPLE).replace(BASIC, "Basic \u{e9}\u{fe}"),
            401,
            "not ASCII",
        );
        refused(&with_length(&"[".repeat(60_000)), 422, "a depth bomb");
        refused(&with_length("\0\u{1}"), 422, "control characters");

        let mut stream = connect(address);
        stream.write_all(midway).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = answer(&mut stream);
        assert!(
            matches!(status(&answer), 0 | 400),
            "half-closed midway: {answer}"
        );

        let mut stream = connect(address);
        stream.write_all(midway).unwrap();
        drop(stream);
    };
    // The first round allocates memory that the process keeps. It is not counted.
    hostile();
    let before = process.memory("VmHWM");
    for _ in 0..10 {
        hostile();
    }
    // At once: bodies that stop midway, and chunks that announce 16 EB and send one byte.
    let enormous = head("transfer-encoding: chunked\r\n") + "fffffffffffffff0\r\n{";
    let held: Vec<TcpStream> = [midway, enormous.as_bytes()]
        .repeat(100)
        .into_iter()
        .map(|said| {
            let mut stream = connect(address);
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    assert!(delivers(address));
    let grown = process.memory("VmHWM") - before;
    drop(held);
    // A connection of hyper takes about 10 kB, so 200 open ones take 2 MB.
    assert!(grown < 8 * 1024, "its peak grew by {grown} kB");
    // This includes memory that is reserved and not used.
    let virtual_size = process.memory("VmPeak");
    assert!(
        virtual_size < 16 * 1024 * 1024,
        "{virtual_size} kB were reserved"
    );
    assert!(delivers(address));
}
