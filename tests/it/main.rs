//! One binary, so that the tests are linked once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod allocations;
mod answers;
#[cfg(feature = "tokio")]
mod attacks;
mod background;
mod bodies;
mod cancellation;
mod credentials;
#[cfg(feature = "tokio")]
mod deadlines;
mod debug;
mod decode;
mod dedupe;
mod dropped_deliveries;
mod events;
mod hooks;
mod mounts;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "tokio",
    feature = "tracing"
))]
mod observability;
#[cfg(feature = "utoipa")]
mod openapi;
#[cfg(feature = "axum")]
mod other_webhooks;
#[cfg(feature = "test-util")]
mod own_ledger;
mod panics;
mod properties;
mod readiness;
#[cfg(all(feature = "axum", feature = "test-util"))]
mod readme;
mod refusals;
mod rooms;
mod router;
#[cfg(feature = "tokio")]
mod simulation;
#[cfg(target_os = "linux")]
mod sockets;
mod strategies;
mod support;
#[cfg(feature = "test-util")]
mod testing_kit;
#[cfg(all(feature = "jiff", feature = "chrono", feature = "time"))]
mod timestamp_conversions;
#[cfg(all(feature = "tokio", feature = "test-util"))]
mod watch;
mod weight;
