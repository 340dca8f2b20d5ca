//! The ways to mount the crate: [`JobWebhook`] as a service or a layer, and the axum extractor.
//!
//! [`Background::run`](crate::Background::run), which runs an event outside of a mount, is
//! implemented here too. All mounts take the steps of `pipeline`.
//!
//! This module uses `pipeline` and all rooms that `pipeline` uses.

#[cfg(feature = "axum")]
mod extractor;
mod future;
#[cfg(feature = "axum")]
mod into_response;
mod job_webhook;
mod layer;
mod pass_on;
mod pass_through;
mod run;
mod service;

#[cfg(feature = "axum")]
pub use extractor::JobEventRejection;
pub use future::ResponseFuture;
pub use job_webhook::JobWebhook;
pub use layer::JobWebhookLayer;
pub use pass_on::{PassOnFuture, PassOnLayer, PassOnService, PassedOn};
pub use service::JobWebhookService;
