//! Spans, logs and metrics of deliveries and callbacks.
//!
//! The features `tracing` and `metrics` choose the implementations here. Without them, empty
//! implementations compile to nothing. This module uses `callback`, `event`, `job`, `error` and
//! `util`.

#[cfg(all(feature = "tokio", feature = "tracing"))]
mod log;
#[cfg(all(feature = "tokio", not(feature = "tracing")))]
#[path = "no_log.rs"]
mod log;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
mod metrics;
#[cfg(any(feature = "metrics", feature = "tracing"))]
#[cfg_attr(
    not(feature = "axum"),
    allow(dead_code, reason = "the extractor uses the rest")
)]
mod observation;
#[cfg(not(any(feature = "metrics", feature = "tracing")))]
#[cfg_attr(
    not(feature = "axum"),
    allow(dead_code, reason = "the extractor uses the rest")
)]
#[path = "no_observation.rs"]
mod observation;
mod observed;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod outcome;
#[cfg(feature = "tracing")]
mod trace;
#[cfg(all(feature = "metrics", not(feature = "tracing")))]
#[path = "no_trace.rs"]
mod trace;

pub(crate) use self::metrics::Timer;
#[cfg(feature = "metrics")]
pub use self::metrics::describe_metrics;
#[cfg(feature = "queue")]
pub(crate) use self::metrics::queued_events;
#[cfg(feature = "tokio")]
pub(crate) use self::metrics::{expected_jobs, failsafe_read, heard_after};
#[cfg(feature = "tokio")]
pub(crate) use log::{failsafe_failed, listening_failed, read_failed};
#[cfg(feature = "queue")]
pub(crate) use log::{left_out, queue_failed, results_given_up, taken_over};
pub(crate) use observation::{Entered, Observation};
pub(crate) use observed::Observed;

/// Reports a job that is given up.
#[cfg(feature = "tokio")]
pub(crate) fn given_up(guid: &crate::job::JobGuid) {
    log::given_up(guid);
    metrics::given_up();
}

/// Reports an event of a queue that is a dead letter.
#[cfg(feature = "queue")]
pub(crate) fn dead_lettered(name: &str) {
    log::dead_lettered(name);
    metrics::dead_lettered();
}
