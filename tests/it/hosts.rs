//! The examples of hosts, run as they are and sent what their first lines say.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Process, example, run};

#[test]
fn every_hosts_curl_line_delivers_as_it_stands() {
    for host in [
        "axum_around",
        "axum_extractor",
        "axum_layer",
        "axum_nested",
        "axum_route_service",
        "hyper_plain",
    ] {
        assert_delivers(host, example(host), &curl_line(host));
    }
}

/// Starts the host, and sends it its curl line: once as it stands, once with another password.
fn assert_delivers(host: &str, command: Command, line: &str) -> Process {
    let mut server = Process::start(command);
    let listening = server.line();
    let address = listening.rsplit('/').next().unwrap();
    server.address = address.parse().expect(&listening);
    assert_eq!(status(line, &server), "HTTP/1.1 204 No Content", "{host}");
    let said = server.line().to_lowercase();
    assert!(said.starts_with("completed job-"), "{host}: {said}");
    if line.contains("mx:secret") {
        let guess = line.replace("mx:secret", "mx:guess");
        assert_eq!(
            status(&guess, &server),
            "HTTP/1.1 401 Unauthorized",
            "{host}"
        );
    }
    server
}

/// What is answered to a curl line that is pasted, but for the port.
fn status(line: &str, server: &Process) -> String {
    let port = format!(":{}/", server.address.port());
    let line = line.replace(":3000/", &port).replace(":3443/", &port);
    let line = line.replacen("curl ", "curl -m 40 ", 1);
    let pasted = run(Command::new("sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["-c", &line]));
    let answer = String::from_utf8(pasted.stdout).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// The curl line in the first lines of an example.
fn curl_line(host: &str) -> String {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let file = [format!("{host}.rs"), format!("{host}/main.rs")];
    let text = file
        .iter()
        .find_map(|file| fs::read_to_string(examples.join(file)).ok());
    let text = text.unwrap();
    let head: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let head = head.join("\n");
    let (_, block) = head.split_once("```text\n").unwrap();
    let (line, _) = block.split_once("```").unwrap();
    assert!(line.trim_start().starts_with("curl "), "{host}: {line}");
    line.to_owned()
}
