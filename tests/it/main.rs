//! One binary, so that the tests link once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod answers;
mod bodies;
mod credentials;
mod decode;
mod events;
mod examples;
mod mounts;
mod properties;
mod readiness;
mod router;
mod running_on;
mod sockets;
mod support;
mod ui;
