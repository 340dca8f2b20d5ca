//! Runs the example as a process.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{env, fs, process};

use harness::{curl, example};

/// The folder for certificates, as in the example's head.
const CERTIFICATES: &str = "target/certificates";

#[test]
fn only_deliveries_with_the_written_certificates_are_acknowledged() {
    let folder = env::temp_dir().join(format!("mx-job-webhook-hosts-{}", process::id()));
    let folder = folder.to_str().unwrap();
    let mut command = example(env!("CARGO_BIN_EXE_mutual_tls"));
    command.args(["--write-certificates", folder]);
    let line = curl::line(include_str!("../src/main.rs")).replace(CERTIFICATES, folder);
    let server = curl::assert_delivers("mutual_tls", command, &line);

    let client = format!("--cert {folder}/client.pem --key {folder}/client.key");
    assert!(line.contains(&client), "{line}");
    let nameless = line.replace(&client, "");
    assert_eq!(
        curl::status(&nameless, &server),
        "HTTP/1.1 401 Unauthorized"
    );
    fs::remove_dir_all(folder).unwrap();
}
