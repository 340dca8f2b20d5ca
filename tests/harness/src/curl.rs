//! The curl commands of the examples, pasted into a shell.

use std::process::Command;

use crate::{Process, repository, run};

/// Returns the curl command in the first lines of this source of an example.
pub fn line(source: &str) -> String {
    let head: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let head = head.join("\n");
    let (_, block) = head.split_once("```text\n").unwrap();
    let (line, _) = block.split_once("```").unwrap();
    assert!(line.trim_start().starts_with("curl "), "{line}");
    line.to_owned()
}

/// Starts the example and runs its curl command twice: unchanged, and with a wrong password.
pub fn assert_delivers(example: &str, command: Command, line: &str) -> Process {
    let mut server = Process::start(command);
    let listening = server.line();
    let address = listening.rsplit('/').next().unwrap();
    server.address = address.parse().expect(&listening);
    assert_eq!(
        status(line, &server),
        "HTTP/1.1 204 No Content",
        "{example}"
    );
    let said = server.line().to_lowercase();
    assert!(said.starts_with("completed job-"), "{example}: {said}");
    if line.contains("mx:secret") {
        let guess = line.replace("mx:secret", "mx:guess");
        assert_eq!(
            status(&guess, &server),
            "HTTP/1.1 401 Unauthorized",
            "{example}"
        );
    }
    server
}

/// Returns the status line of the answer to a curl command with the server's port.
pub fn status(line: &str, server: &Process) -> String {
    let port = format!(":{}/", server.address.port());
    let line = line.replace(":3000/", &port).replace(":3443/", &port);
    let line = line.replacen("curl ", "curl -m 40 ", 1);
    let pasted = run(Command::new("sh")
        .current_dir(repository())
        .args(["-c", &line]));
    let answer = String::from_utf8(pasted.stdout).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}
