//! The example on a real server: its processes, the pages for operators, and both of them in Chromium.
#![cfg(unix)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the pages print their address; a panic fails the test"
)]

#[path = "../../src/admin/mod.rs"]
mod admin;
#[cfg(feature = "chromium")]
mod chromium;
mod database;
mod mistakes;
mod pages;
mod processes;
mod requests;
#[allow(dead_code, reason = "the pages use two of its functions")]
#[path = "../../src/settings.rs"]
mod settings;

use std::env;
use std::process::Command;
use std::time::Duration;

use harness::{repository, run};

/// The program of the example.
const DURABLE_QUEUE: &str = env!("CARGO_BIN_EXE_durable_queue");

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Returns MX's sample with the guid of another job.
fn sample(guid: &str) -> String {
    let sample = include_str!("../../../../tests/fixtures/completed.json");
    sample.replace("JOB-a177e002-e5b8-0680-3427-39556fa93c6e", guid)
}

/// Runs a command of `cargo run`, as a user who pastes it into a shell.
fn paste(command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.current_dir(repository()).args(["-c", command]);
    // Cargo sets these for tests, and rebuilds crates that depend on them.
    let of_cargo = |variable: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|start| variable.starts_with(start))
    };
    for (variable, _) in env::vars().filter(|(variable, _)| of_cargo(variable)) {
        shell.env_remove(variable);
    }
    let output = run(&mut shell);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
