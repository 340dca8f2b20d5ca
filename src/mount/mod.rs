//! The ways in: [`JobWebhook`] on a route or as a layer, the axum extractor, and
//! [`Background::run`](crate::Background::run).
//!
//! All of them take the same steps, which `pipeline` has.

#[cfg(feature = "axum")]
mod extractor;
mod future;
mod http_request;
#[cfg(feature = "axum")]
mod into_response;
mod job_webhook;
mod layer;
mod pass_through;
mod run;
mod service;

#[cfg(feature = "axum")]
pub use extractor::JobEventRejection;
pub use future::ResponseFuture;
pub use http_request::HttpRequest;
pub use job_webhook::JobWebhook;
pub use layer::JobWebhookLayer;
pub use service::JobWebhookService;
