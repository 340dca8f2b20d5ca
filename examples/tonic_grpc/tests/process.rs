//! Runs the example as a process.

use harness::{curl, example};

#[test]
fn its_curl_line_delivers() {
    let line = curl::line(include_str!("../src/main.rs"));
    let command = example(env!("CARGO_BIN_EXE_tonic_grpc"));
    let _server = curl::assert_delivers("tonic_grpc", command, &line);
}
