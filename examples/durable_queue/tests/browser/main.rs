//! The pages for operators: what they show and do, what other sites cannot do, and the same in Chromium.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the pages print their address; a panic fails the test"
)]

#[path = "../../src/admin/mod.rs"]
mod admin;
mod chromium;
mod fake;
mod requests;
