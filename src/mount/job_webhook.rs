//! The settings of a mount, and the terminal service.

use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::sync::Arc;
use std::task::{Context, Poll};
#[cfg(feature = "tokio")]
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tower::{BoxError, Service};

use super::{JobWebhookLayer, ResponseFuture};
use crate::background::Background;
use crate::callback::{
    BoxJobService, Callback, CallbackFuture, Failure, FailureHook, JobService, box_callback,
};
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, OtherWebhook, Undecodable};
use crate::pipeline::accept::accepts_method;
use crate::pipeline::{Answer, Deliver, Settings};
#[cfg(feature = "tokio")]
use crate::util::deadline::Timeout;

/// A service that receives MX's job webhooks and runs the callbacks for them.
///
/// It is a terminal service: every `POST` is a delivery, whatever its path, and other methods are
/// answered 405. Mount it on a route with axum's `route_service`. For a whole router, or for any
/// other `Service<Request<B>>`, [`at`](Self::at) makes a layer of it.
///
/// `jobs` is a [`JobRouter`](crate::JobRouter), or tower middleware around one: see [`JobService`].
///
/// Refusals and receipts have empty bodies. The [`Error`](crate::Error) of a refusal, or the
/// [`Receipt`](crate::Receipt), is in the response's extensions. [`answers`](crate::guide::answers)
/// lists all answers.
///
/// # Cancellation
///
/// If the sender hangs up after a callback has started, the callback continues: see [`Background`].
/// Before that, the delivery is dropped, and MX retries it. Middleware within `jobs` can cut a
/// callback short, as tower's `timeout` does; `with_answer_deadline` does not.
///
/// # Example
///
/// ```
/// use axum::Router;
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
/// # use axum::body::Body; use http::{Request, StatusCode}; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) });
/// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, jobs);
/// let app: Router = Router::new().route_service("/admin/webhooks", webhooks);
///
/// let delivery = Request::post("/admin/webhooks")
///     .header("authorization", "Basic bXg6c2VjcmV0")
///     .header("content-type", "application/json")
///     .body(Body::from(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#))?;
/// assert_eq!(app.oneshot(delivery).await?.status(), StatusCode::NO_CONTENT);
/// # Ok(()) }
/// ```
pub struct JobWebhook<J = BoxJobService> {
    pub(super) settings: Arc<Settings<J>>,
}

impl<J: JobService> JobWebhook<J> {
    /// Returns a service that takes deliveries from senders with these credentials.
    #[must_use]
    pub fn new(credentials: Credentials, jobs: J) -> Self {
        Self {
            settings: Arc::new(Settings::new(credentials, jobs)),
        }
    }
}

// Without the bound of `new`, so that the compiler reports a mistake there once.
impl<J> JobWebhook<J> {
    /// Returns a layer that takes the deliveries to this path.
    ///
    /// The path is compared byte for byte with the request's. All other requests pass through to
    /// the service within.
    ///
    /// Add the layer to the outermost router, **after all routes and fallbacks**: axum's layers see
    /// only what was added before them. A wildcard route or a fallback that is added after the
    /// layer takes the deliveries, and may answer them 200. Layers that should see deliveries too,
    /// such as tower-http's `TraceLayer`, come after this one.
    ///
    /// The layers of a *nested* router are called only for that router's own routes, without the
    /// prefix. In a nested router, use the terminal service on a route.
    ///
    /// # Panics
    ///
    /// If the path does not start with a slash, or has a capture, a wildcard or a query, because no
    /// request's path could match it.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    ///
    /// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new());
    /// let app: Router = Router::new()
    ///     .route("/accounts", get(|| async { "accounts" }))
    ///     .layer(webhooks.at("/admin/webhooks"));
    /// # drop(app); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
    /// ```
    #[must_use]
    #[track_caller]
    pub fn at(self, path: &str) -> JobWebhookLayer<J> {
        JobWebhookLayer::new(path, self.settings)
    }
}

impl<J: JobService> JobWebhook<J> {
    /// Runs an event through `jobs`, with the settings of this mount.
    ///
    /// Use it in a handler that takes the event by the extractor. The `Background`, the answer
    /// deadline and the hook `on_error` hold as for a delivery to a mount. With the feature `axum`,
    /// the output is `IntoResponse`.
    ///
    /// # Errors
    ///
    /// Those of a callback: see [`ErrorKind`].
    ///
    /// # Cancellation
    ///
    /// If the future is dropped after the callback has started, the callback continues.
    pub fn run(&self, event: JobEvent) -> impl Future<Output = Result<Receipt, Error>> + use<J> {
        let deliver = Deliver::<Empty<Bytes>, J>::run(&self.settings, event);
        async move {
            match deliver.await {
                Answer::Respond(outcome) => outcome,
                Answer::PassOn(_) => unreachable!("an event is a job webhook"),
            }
        }
    }

    /// Boxes `jobs`, so that the type is `JobWebhook` without a parameter.
    ///
    /// The extractor takes its settings from a `JobWebhook` in the router's state: see
    /// `FromRequest` of [`JobEvent`].
    #[must_use]
    pub fn boxed(self) -> JobWebhook {
        let settings = Arc::unwrap_or_clone(self.settings);
        JobWebhook {
            settings: Arc::new(settings.map_jobs(BoxJobService::new)),
        }
    }
}

/// Settings.
impl<J: Clone> JobWebhook<J> {
    /// Sets how long a body may be, in bytes. Defaults to 65,536.
    ///
    /// A longer body is answered 413. If `Content-Length` announces more, that is decided before
    /// the body is read. MX's documented sample has 545 bytes.
    #[must_use]
    pub fn with_body_limit(mut self, bytes: usize) -> Self {
        self.settings_mut().limits.body = bytes;
        self
    }

    /// Sets how long authentication and the body may take together. Defaults to 10 s.
    ///
    /// A body that takes longer is answered 408. A closure of
    /// [`Credentials::verify`](crate::Credentials::verify) that takes longer is answered 503.
    /// `None` disables the timeout.
    ///
    /// The time counts from when the delivery first has to wait, by tokio's clock. Outside of a
    /// tokio runtime, and in one whose timers are disabled, there is no timeout. If timers are
    /// disabled, tokio panics. That panic is caught, but the panic hook still sees it.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings_mut().limits.read_timeout = Timeout(timeout.into());
        self
    }

    /// Sets how much of a refused body is discarded, in bytes. Defaults to 8 MiB.
    ///
    /// A refusal is decided before the body is read. If a server answers with the body unread, it
    /// has to close the connection. A client that is still writing can then lose the answer, and
    /// a proxy that shares the connection with other requests loses theirs. So the body is read and
    /// discarded first.
    ///
    /// A body that is longer than this is not read to its end, and the answer says `Connection:
    /// close` (HTTP/1.x). The same holds for a sender that waits for `100 Continue`, because its
    /// body is not wanted. 0 closes the connection after each refusal of a request with a body.
    ///
    /// A limit below that of `with_body_limit` counts as that one, unless it is 0. A sender that
    /// first waits for the challenge can then deliver every accepted body.
    ///
    /// A request without credentials therefore costs at most this much reading, or the time of
    /// `with_discard_timeout` if that passes first. Discarding keeps nothing in memory and takes no
    /// permit of the [`Background`].
    #[must_use]
    pub fn with_discard_limit(mut self, bytes: u64) -> Self {
        self.settings_mut().limits.discard = bytes;
        self
    }

    /// Sets how long discarding a refused body may take. Defaults to 2 s.
    ///
    /// The read timeout bounds it too. When the time is up, the answer says `Connection: close`
    /// (HTTP/1.x). `None` leaves the read timeout as the only bound. If there is no timer, only
    /// what has already arrived is discarded.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_discard_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings_mut().limits.discard_timeout = Timeout(timeout.into());
        self
    }

    /// Sets how long the sender waits for a callback. Defaults to no deadline.
    ///
    /// When the deadline passes, the answer is 503 with `Retry-After`, and the callback continues.
    /// MX delivers the event again. With [`DedupeLayer`](crate::DedupeLayer), that delivery is
    /// acknowledged once the callback has succeeded. Without it, the callback runs again.
    ///
    /// The time counts from when the delivery first has to wait for the callback or its service, by
    /// tokio's clock. Without a timer there is no deadline, as for `with_read_timeout`. The
    /// deadline passes on time even if the callback uses up its task's budget, but not while the
    /// callback blocks the thread. Set it shorter than the timeouts of the sender and of each proxy
    /// on the way. MX does not publish its timeout.
    ///
    /// # Example
    ///
    /// ```
    /// use std::{future::pending, time::Duration};
    /// use mx_job_webhook::{Background, Credentials, JobRouter, JobWebhook};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let jobs = JobRouter::new()
    ///     .on_completed(|_| tokio::time::sleep(Duration::from_millis(50)));
    /// let webhooks = JobWebhook::new(Credentials::unauthenticated(), jobs)
    ///     .with_background(background.clone())
    ///     .with_answer_deadline(Duration::from_millis(1));
    ///
    /// let delivery = Request::post("/").header("content-type", "application/json");
    /// let delivery = delivery.body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
    /// assert_eq!(webhooks.oneshot(delivery).await?.status(), 503);
    /// assert_eq!(background.running(), 1); // The callback continues.
    /// assert_eq!(background.drain(pending::<()>()).await, 0);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_answer_deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.settings_mut().answer_deadline = Timeout(deadline.into());
        self
    }

    /// Sets the `Background` that tracks callbacks.
    ///
    /// Set it to wait for callbacks at shutdown, and to bound how many run at once.
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        self.settings_mut().background = background;
        self
    }

    /// Registers the hook that reports failed deliveries, at any stage.
    ///
    /// It is called for refusals, for errors and panics of callbacks, for callbacks that were cut
    /// short, for deadlines that passed, and for callbacks that fail after their delivery was
    /// answered. It runs on the task that polls the delivery, and must not block. If it panics, the
    /// answer stays the same.
    ///
    /// A [`Failure`] contains no payload. The error of a callback prints what the application put
    /// into it.
    #[must_use]
    pub fn on_error<F>(mut self, hook: F) -> Self
    where
        F: Fn(Failure<'_>) + Send + Sync + 'static,
    {
        self.settings_mut().on_error = Some(FailureHook::new(hook));
        self
    }

    /// Registers the hook for bodies that cannot be decoded.
    ///
    /// If the hook succeeds, the answer is 204, because MX would only send the same bytes again. If
    /// it fails, the answer is 500. Without a hook, the answer is 422, and MX's retries keep the
    /// body for about a day. MX's other webhooks go to [`on_other_webhook`](Self::on_other_webhook).
    #[must_use]
    pub fn on_undecodable<F, Fut>(mut self, hook: F) -> Self
    where
        F: Callback<Undecodable, Fut>,
        Fut: CallbackFuture,
    {
        self.settings_mut().on_undecodable = Some(box_callback(hook, Receipt::Undecodable));
        self
    }

    /// Registers the hook for MX's other webhooks, which have no job.
    ///
    /// Unless you ask MX for separate URLs, it sends all webhooks to one (MX's page on webhooks). If
    /// the hook succeeds, the answer is 204. If it fails, the answer is 500, and MX delivers the
    /// webhook again. Without a hook, the answer is 422, and MX delivers each of them for about a
    /// day.
    ///
    /// To answer them by a route of your own instead, see
    /// [`pass_on_other_webhooks`](crate::mount::JobWebhookLayer::pass_on_other_webhooks).
    #[must_use]
    pub fn on_other_webhook<F, Fut>(mut self, hook: F) -> Self
    where
        F: Callback<OtherWebhook, Fut>,
        Fut: CallbackFuture,
    {
        self.settings_mut().on_other_webhook = Some(box_callback(hook, Receipt::OtherWebhook));
        self
    }

    fn settings_mut(&mut self) -> &mut Settings<J> {
        Arc::make_mut(&mut self.settings)
    }
}

impl<J, B> Service<Request<B>> for JobWebhook<J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: JobService,
{
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = ResponseFuture<Ready<Result<Self::Response, Infallible>>, B, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if accepts_method(&request) {
            ResponseFuture::delivery(&self.settings, request)
        } else {
            let error = Error::new(ErrorKind::MethodNotAllowed);
            ResponseFuture::refusal(&self.settings, error, request)
        }
    }
}

// By hand, because `derive` would require `J: Clone`, although the settings are in an `Arc`.
impl<J> Clone for JobWebhook<J> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
        }
    }
}

impl<J> fmt::Debug for JobWebhook<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhook")
            .field("credentials", &self.settings.credentials)
            .finish_non_exhaustive()
    }
}
