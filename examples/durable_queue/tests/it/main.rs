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

use std::time::Duration;

/// The program of the example.
const DURABLE_QUEUE: &str = env!("CARGO_BIN_EXE_durable_queue");

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Returns MX's sample with the guid of another job.
fn sample(guid: &str) -> String {
    let sample = include_str!("../../../../tests/fixtures/completed.json");
    sample.replace("JOB-a177e002-e5b8-0680-3427-39556fa93c6e", guid)
}
