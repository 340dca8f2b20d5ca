//! The layer, which takes deliveries out of the traffic of the service that it wraps.

use std::fmt;
use std::sync::Arc;

use tower::Layer;

use super::{JobWebhookService, PassOnLayer};
use crate::pipeline::Settings;
use crate::pipeline::accept::Path;

/// A layer that receives MX's job webhooks and runs the callbacks for them.
///
/// [`JobWebhook::at`](crate::JobWebhook::at) returns it. A `POST` to the path is a delivery, and
/// never reaches the service within. All other requests pass through untouched, including other
/// methods on the path.
///
/// Receipts and refusals have empty bodies, so the response body of the service within has to
/// implement `Default`.
pub struct JobWebhookLayer<J> {
    path: Path,
    settings: Arc<Settings<J>>,
}

impl<J> JobWebhookLayer<J> {
    #[track_caller]
    pub(super) fn new(path: &str, settings: Arc<Settings<J>>) -> Self {
        Self {
            path: Path::new(path),
            settings,
        }
    }
}

impl<J> JobWebhookLayer<J> {
    /// Passes MX's other webhooks on to the service within, which answers them.
    ///
    /// Use it if MX sends all its webhooks to one URL. A webhook without a job is authenticated,
    /// and reaches your own route for the path with its method, URI, headers and body as MX sent
    /// them. Only `Authorization` is removed, and trailers are dropped. The limits of the body hold
    /// for it too. The request's body has to implement `From<Bytes>`, as axum's does.
    ///
    /// The layer checks the credentials of the requests to exactly its path. Let your handler demand the
    /// mark [`PassedOn`](super::PassedOn), so that nothing else reaches it. If there is no route for a
    /// `POST` to the path, the router's fallback answers, and a 200 of it loses the webhook.
    ///
    /// A body that is no webhook of MX, because it has neither a job nor a root key `type` or
    /// `action`, is still undecodable.
    ///
    /// # Panics
    ///
    /// If the hook [`on_other_webhook`](crate::JobWebhook::on_other_webhook) is registered, because it
    /// would never be called.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::{Extension, Json, Router, routing::post};
    /// use mx_job_webhook::mount::PassedOn;
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    /// use serde_json::Value;
    ///
    /// async fn other(_: Extension<PassedOn>, Json(webhook): Json<Value>) {
    ///     println!("{} of {}", webhook["type"], webhook["member_guid"]);
    /// }
    ///
    /// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new());
    /// let app: Router = Router::new()
    ///     .route("/webhooks", post(other))
    ///     .layer(webhooks.at("/webhooks").pass_on_other_webhooks());
    /// # drop(app); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
    /// ```
    #[must_use]
    #[track_caller]
    pub fn pass_on_other_webhooks(self) -> PassOnLayer<J> {
        assert!(
            self.settings.on_other_webhook.is_none(),
            "other webhooks are either passed on, or taken by `on_other_webhook`"
        );
        PassOnLayer::new(self.path, self.settings)
    }
}

impl<S, J> Layer<S> for JobWebhookLayer<J> {
    type Service = JobWebhookService<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        JobWebhookService::new(inner, self.path.clone(), self.settings.clone())
    }
}

// By hand, because `derive` would require `J: Clone`, although the settings are in an `Arc`.
impl<J> Clone for JobWebhookLayer<J> {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<J> fmt::Debug for JobWebhookLayer<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhookLayer")
            .field("path", &self.path)
            .field("credentials", &self.settings.credentials)
            .finish_non_exhaustive()
    }
}
