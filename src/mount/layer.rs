//! The layer, which takes deliveries out of the traffic of the service that it wraps.

use std::fmt;
use std::sync::Arc;

use tower::Layer;

use super::JobWebhookService;
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
